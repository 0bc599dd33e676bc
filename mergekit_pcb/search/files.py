"""The files of a search: the recipe found; page, Markdown, JSON, and the picture."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mergekit_pcb.compare.evaluation import Scores
from mergekit_pcb.output.figures import Picture, why_no_figures
from mergekit_pcb.output.html import escaped, figure, page
from mergekit_pcb.output.report_files import write_report
from mergekit_pcb.output.table import html, markdown, markdown_text
from mergekit_pcb.recipes.layout import in_yaml
from mergekit_pcb.search.figures import NAMES, pictures
from mergekit_pcb.search.others import OtherMerge
from mergekit_pcb.search.outcome import AnyCandidate, differences
from mergekit_pcb.search.report import Report, answer, notes
from mergekit_pcb.search.scores import Scored, loss
from mergekit_pcb.search.space import recipe_of
from mergekit_pcb.search.tables import tables, tried_table

BEST, PAGE = "best.yml", "search.html"
_MARKDOWN, _JSON = "search.md", "search.json"
_WIDTH = 84


def write(report: Report) -> None:
    """Write the recipe that was found, and the report as page, Markdown and JSON.

    Without matplotlib it has no pictures.
    """
    drawn = [] if why_no_figures() else pictures(report)
    contents = {
        BEST: best_recipe(report),
        PAGE: page(report.title, _page_body(report, drawn)),
        _MARKDOWN: _as_markdown(report),
        _JSON: _as_json(report),
    }
    write_report(report.folder, contents, drawn, NAMES)


def clear(folder: Path) -> None:
    """Delete the report of an earlier search, before another begins in its folder."""
    drawn = [f"{name}.png" for name in NAMES]
    for name in (BEST, PAGE, _MARKDOWN, _JSON, *drawn):
        (folder / name).unlink(missing_ok=True)


def best_recipe(report: Report) -> str:
    """The recipe that was found, which plain mergekit-yaml merges."""
    lines = [f"Found by `mergekit-pcb search {Path(report.recipe).name}`."]
    lines += [answer(report), f"{report.evaluated}."]
    best = report.outcome.best.candidate
    if isinstance(best, OtherMerge):
        lines.append(f"Merged with --random-seed {report.random_seed}.")
        recipe = dict(best.recipe)
    else:
        recipe = recipe_of(report.start, best)
    comment = "\n".join(
        line
        for text in lines
        for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)
    )
    return in_yaml([recipe], [comment])


def _page_body(report: Report, drawn: Sequence[Picture]) -> Iterator[str]:
    yield f'<p class="answer">{escaped(answer(report))}</p>'
    (heading, shown), *more = tables(report)
    yield f"<h2>{escaped(heading)}</h2>"
    yield html(shown)
    for picture in drawn:
        yield figure(picture)
    for heading, table in more:
        yield f"<h2>{escaped(heading)}</h2>"
        yield html(table)
    yield "<h2>How to read it</h2>\n<ul>"
    for note in notes(report):
        yield f"<li>{escaped(note)}</li>"
    yield "</ul>"
    yield "<details><summary>Every candidate</summary>"
    yield html(tried_table(report.outcome.tried))
    yield "</details>"
    yield f"<footer>{escaped(_conditions(report))}</footer>"


def _as_markdown(report: Report) -> str:
    lines = [f"# {markdown_text(report.title)}", "", markdown_text(answer(report)), ""]
    for heading, table in tables(report):
        lines += [f"## {heading}", "", markdown(table), ""]
    lines += [f"* {markdown_text(note)}" for note in notes(report)]
    lines += ["", "## Every candidate", "", markdown(tried_table(report.outcome.tried))]
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


def _plain(candidate: AnyCandidate, scored: Scored) -> dict[str, Any]:
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
