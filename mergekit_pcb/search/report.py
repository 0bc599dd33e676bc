"""What a search found, in words, tables and files."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.compare.evaluation import ALL, Scores
from mergekit_pcb.compare.files import scores_table
from mergekit_pcb.compare.scoreboard import BASE, MERGE, Row, Scoreboard
from mergekit_pcb.output.html import escaped, page
from mergekit_pcb.output.table import Cell, Table, html, markdown, markdown_text
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.layout import in_yaml
from mergekit_pcb.search.run import Outcome, Tried, differences
from mergekit_pcb.search.scores import Gap, Scored, gap, loss
from mergekit_pcb.search.space import (
    LAMBDA_FACTORS,
    PCB,
    RECIPE,
    Candidate,
    recipe_of,
)

BEST, PAGE = "best.yml", "search.html"
_WIDTH = 84


@dataclass(frozen=True)
class Report:
    """The result of a search, and what it is the result of.

    Attributes:
        recipe: the file.
        start: the recipe for pcb that the search began with.
        folder: where the files of the report are.
        outcome: what was found.
        evaluated: by what, as a sentence.
        how_chosen: which items chose, if others are shown.
        inputs: how many inputs each expert had, if agreement scored.
        seed: of the search.
        conditions: versions, by name.
    """

    recipe: str
    start: edits.Recipe
    folder: Path
    outcome: Outcome
    evaluated: str
    how_chosen: str
    inputs: dict[str, int]
    seed: int
    conditions: dict[str, str]

    @property
    def title(self) -> str:
        """What the report is about."""
        return f"Settings for the models of {Path(self.recipe).name}, searched"

    @property
    def scoreboard(self) -> Scoreboard:
        """The base, the start, and the best of each setting, on the choosing items."""
        leaders = [tried for tried, _ in differences(self.outcome)]
        start = self.outcome.tried[0]
        chosen = dict.fromkeys(t.candidate for t in (start, *leaders))
        found = {t.candidate: t.scored for t in self.outcome.tried}
        rows = [_row(candidate, found[candidate]) for candidate in chosen]
        return Scoreboard(Scoreboard([self._base(), *rows]).in_order())

    @property
    def shown(self) -> Scoreboard:
        """Start, equal weights and best, on items that did not choose."""
        return Scoreboard([_row(c, s) for c, s in self.outcome.shown.items()])

    def _base(self) -> Row:
        base = self.outcome.base
        return Row(BASE, BASE, base.scores, failed=base.failed)


def _row(candidate: Candidate, scored: Scored) -> Row:
    setting = candidate.setting
    name, _, density = str(setting).partition(", ")
    words = [density] if density else []
    words += str(candidate).removeprefix(str(setting)).lstrip(", ").split(", ")
    if setting.method == RECIPE:
        words = ["the recipe as it stands"]
    label = ", ".join(filter(None, words))
    method = _method(candidate)
    return Row(MERGE, name, scored.scores, method, label, failed=scored.failed)


def answer(report: Report) -> str:
    """The result in one line: what was found, and how sure it is."""
    outcome = report.outcome
    best, start = outcome.best, outcome.tried[0]
    text = f"Best: {best.candidate}"
    if best.candidate.setting.method == RECIPE:
        text = "Best: the recipe as it stands"
    text += f", {_number(best)}"
    if start.candidate != best.candidate and not start.scored.failed:
        gain = gap(start.scored.scores, best.scored.scores)
        text += f"; the recipe as it stands {_number(start)}, {_against(gain)}"
    rivals = [(t, g) for t, g in differences(outcome) if _is_rival(t, best)]
    if rivals:
        rival, difference = rivals[0]
        text += (
            f"; best of another method: {rival.candidate}, {_number(rival)}, "
            f"{_against(difference)}"
        )
    return text + "."


def _is_rival(tried: Tried, best: Tried) -> bool:
    return _method(tried.candidate) != _method(best.candidate)


def _method(candidate: Candidate) -> str:
    """The merge method; the recipe that the search began with is for pcb."""
    method = candidate.setting.method
    return PCB if method == RECIPE else method


def _number(tried: Tried) -> str:
    return f"{abs(tried.loss):.4g}"


def _against(difference: Gap) -> str:
    """How much worse something is than the best, and whether that is more than noise.

    Example:
        >>> _against(Gap(0.01, 0.002)), _against(Gap(0.001, 0.002))
        ('worse by 0.01 ± 0.002', 'level with it (0.001 ± 0.002)')
    """
    value, error = difference
    if error is None:
        return f"worse by {value:.3g}, of unknown error"
    if value <= 2 * error:
        return f"level with it ({value:.3g} ± {error:.2g})"
    return f"worse by {value:.3g} ± {error:.2g}"


def notes(report: Report) -> Iterator[str]:
    """How to read the tables, and what they do not say."""
    outcome = report.outcome
    yield f"{report.evaluated}."
    if report.inputs:
        counts = sorted(set(report.inputs.values()))
        many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        yield (
            f"{many} inputs of each model. ±: standard error over inputs, of paired "
            "differences where two candidates are compared. It says nothing of inputs "
            "of another kind."
        )
    if outcome.part == ALL:
        yield (
            "The items that chose are those shown: the best of many candidates looks "
            "better there than it is."
        )
    else:
        yield f"{report.how_chosen[:1].upper()}{report.how_chosen[1:]}."
    scale = outcome.best.candidate.scale
    own = sorted(
        t.candidate.scale
        for t in outcome.tried
        if t.candidate.setting == outcome.best.candidate.setting
        and t.candidate.scale is not None
    )
    if own and scale in (own[0], own[-1]):
        yield f"Lambda {scale:g} is the last that was tried: the best may lie beyond."
    yield (
        "Lambdas tried first are those that `auto` would choose for the whole model "
        f"times {', '.join(f'{f:g}' for f in LAMBDA_FACTORS)}; then some beside the "
        "best of each method."
    )
    yield from outcome.notes
    failed = [t for t in outcome.tried if t.scored.failed]
    if failed:
        yield (
            f"{len(failed)} candidates failed, the first, {failed[0].candidate}: "
            f"{failed[0].scored.failed}"
        )


def differences_table(report: Report) -> Table:
    """The best candidate of each setting beside the best of all."""
    lines = []
    for tried, difference in differences(report.outcome):
        error = "" if difference.error is None else f"± {difference.error:.2g}"
        best = tried.candidate == report.outcome.best.candidate
        lines.append(
            [
                str(tried.candidate),
                Cell(_number(tried), best=best),
                Cell(f"{difference.value:+.3g}", error),
            ]
        )
    return Table("", ["candidate", "score", "worse than the best by"], lines)


def tried_table(report: Report) -> Table:
    """Every candidate, in the order of the search."""
    return Table(
        "",
        ["candidate", "score"],
        [
            [str(t.candidate), t.scored.failed or _number(t)]
            for t in report.outcome.tried
        ],
    )


def write(report: Report) -> None:
    """Write the recipe that was found, and the report as page, Markdown and JSON."""
    contents = {
        BEST: best_recipe(report),
        PAGE: page(report.title, _page_body(report)),
        "search.md": _as_markdown(report),
        "search.json": _as_json(report),
    }
    for name, content in contents.items():
        write_file(report.folder / name, content)


def best_recipe(report: Report) -> str:
    """The recipe that was found, which plain mergekit-yaml merges."""
    lines = [f"Found by `mergekit-pcb search {Path(report.recipe).name}`."]
    lines += [answer(report), f"{report.evaluated}."]
    comment = "\n".join(
        line
        for text in lines
        for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)
    )
    return in_yaml([recipe_of(report.start, report.outcome.best.candidate)], [comment])


def _page_body(report: Report) -> Iterator[str]:
    yield f'<p class="verdict">{escaped(answer(report))}</p>'
    for heading, table in _tables(report):
        yield f"<h2>{escaped(heading)}</h2>"
        yield html(table)
    yield "<h2>How to read it</h2>\n<ul>"
    for note in notes(report):
        yield f"<li>{escaped(note)}</li>"
    yield "</ul>"
    yield "<details><summary>Every candidate</summary>"
    yield html(tried_table(report))
    yield "</details>"
    yield f"<footer>{escaped(_conditions(report))}</footer>"


def _tables(report: Report) -> list[tuple[str, Table]]:
    tables = [
        ("Best of each setting", scores_table(report.scoreboard)),
        ("How sure the choice is", differences_table(report)),
    ]
    if report.outcome.part != ALL:
        held_out = "On items that did not choose"
        tables.insert(0, (held_out, scores_table(report.shown)))
    return tables


def _as_markdown(report: Report) -> str:
    lines = [f"# {markdown_text(report.title)}", "", markdown_text(answer(report)), ""]
    for heading, table in _tables(report):
        lines += [f"## {heading}", "", markdown(table), ""]
    lines += [f"* {markdown_text(note)}" for note in notes(report)]
    lines += ["", "## Every candidate", "", markdown(tried_table(report))]
    return "\n".join([*lines, "", _conditions(report), ""])


def _conditions(report: Report) -> str:
    found = {**report.conditions, "seed": str(report.seed)}
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _as_json(report: Report) -> str:
    outcome = report.outcome
    document = {
        "recipe": report.recipe,
        "answer": answer(report),
        "best": _plain(outcome.best.candidate, outcome.best.scored),
        "base": {"scores": _values(outcome.base.scores)},
        "tried": [_plain(t.candidate, t.scored) for t in outcome.tried],
        "differences": [
            {"candidate": str(t.candidate), "worse_by": g.value, "error": g.error}
            for t, g in differences(outcome)
        ],
        "shown": {
            "items": outcome.part,
            "rows": [_plain(c, s) for c, s in outcome.shown.items()],
        },
        "inputs": report.inputs,
        "notes": list(notes(report)),
        "seed": report.seed,
        "conditions": report.conditions,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _plain(candidate: Candidate, scored: Scored) -> dict[str, Any]:
    return {
        "candidate": str(candidate),
        **asdict(candidate.setting),
        "lambda": candidate.scale,
        "weight_factors": candidate.factors,
        "loss": None if scored.failed else loss(scored.scores),
        "scores": _values(scored.scores),
        "failed": scored.failed,
    }


def _values(scores: Scores) -> dict[str, Any]:
    return {
        task: {"value": score.value, "error": score.error, "metric": score.metric}
        for task, score in scores.items()
    }
