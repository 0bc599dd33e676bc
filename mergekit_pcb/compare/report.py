"""The results of a comparison in words: the answer and the notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergekit_pcb.compare.budget import SCALE
from mergekit_pcb.compare.candidates import in_word
from mergekit_pcb.compare.columns import WINNER, mean_digits, row_name
from mergekit_pcb.compare.scoreboard import BASE, MERGE, MOST_SHARE, Row, Scoreboard
from mergekit_pcb.plugin.parameters import AUTO


@dataclass(frozen=True)
class Report:
    """The results of a comparison, and what they are results of.

    Attributes:
        recipe: the file whose models are compared.
        folder: where the files of the report are.
        rows: of the table.
        references: base and experts on the items that chose settings.
        evaluated: by what, as a sentence.
        how_chosen: which items chose settings; empty if those that are shown.
        conditions: versions, models and the like, by name.
        random_seed: of the merges.
    """

    recipe: str
    folder: Path
    rows: Sequence[Row]
    references: Sequence[Row]
    evaluated: str
    how_chosen: str
    conditions: dict[str, str]
    random_seed: int = 0

    @property
    def scoreboard(self) -> Scoreboard:
        """The arithmetic of the table."""
        return Scoreboard(self.rows)

    @property
    def failed(self) -> bool:
        """Whether a model, or a setting of it, could not be merged, scored or kept."""
        return any(
            row.failed or row.lost or any(tried.failed for tried in row.tried)
            for row in self.rows
        )

    @property
    def title(self) -> str:
        """What the report is about."""
        return f"Merges of the models of {Path(self.recipe).name}, compared"


def answer(scoreboard: Scoreboard) -> str:
    """Which merge to take, by how much it is better than others, and how sure that is.

    Without any merge that can be ranked, it says why there is no answer.
    """
    best = scoreboard.best(scoreboard.merges)
    if best is None:
        if not scoreboard.merges:
            return "There is no merge to compare: every one of them failed."
        if any(scoreboard.higher_is_better(t) is not None for t in scoreboard.tasks):
            return (
                "The scores have no common direction, and cannot be compared with the "
                "experts', which failed, or are 0 or negative: evaluate by one kind of "
                "score."
            )
        return (
            "Measures of the weights do not say which merge is good: evaluate with "
            "--tasks or --evaluate."
        )
    parts = [f"Best: {_with_setting(best)}, {_score(scoreboard, best)}."]
    if peer := scoreboard.best_peer(best):
        parts.append(_against(scoreboard, best, peer, f"the next method, {peer.name}"))
    inputs = [row for row in scoreboard.rows if row.kind != MERGE]
    if rival := scoreboard.best(inputs):
        name = "the base" if rival.kind == BASE else row_name(rival)
        name = f"the best of base and experts, {name}"
        parts.append(_against(scoreboard, best, rival, name))
    return " ".join(parts)


def _against(scoreboard: Scoreboard, best: Row, other: Row, name: str) -> str:
    """How the best merge compares with another row."""
    gap = scoreboard.gap(best, other)
    other_one = f"{name}, {_score(scoreboard, other)},"
    if gap is None or not gap.value:
        return f"T{other_one[1:]} is level."
    decimals = mean_digits(scoreboard)
    known = gap.error is not None
    error = f" ± {gap.error:.{decimals}f}" if known else " (its error is not known)"
    amount = f"{abs(gap.value):.{decimals}f}{error}"
    if gap.is_level:
        return (
            f"T{other_one[1:]} is level: the difference, {amount}, is within twice its "
            "standard error."
        )
    if scoreboard.best([other, best]) is best:
        return f"It is better by {amount} than {other_one[:-1]}."
    return f"But {other_one} is better than every merge, by {amount}."


def _with_setting(row: Row) -> str:
    words = f"{row.name} with {row.label}" if row.label else row.name
    failed = sum(bool(tried.failed) for tried in row.tried)
    but = f", of which {failed} failed" if failed else ""
    return words + f" (best of {len(row.tried)} tries{but})" * (len(row.tried) > 1)


def _score(scoreboard: Scoreboard, row: Row) -> str:
    mean = scoreboard.mean(row)
    if mean is None:
        return f"{scoreboard.mean_normalised(row):.1f} % of own expert"
    mean_of = "mean " if len(scoreboard.tasks) > 1 else ""
    return f"{mean_of}{mean:.{mean_digits(scoreboard)}f}"


def notes(report: Report) -> Iterator[str]:
    """How to read the table, and what it does not say."""
    scoreboard = report.scoreboard
    ranked = scoreboard.best(scoreboard.rows) is not None
    directions = {scoreboard.higher_is_better(task) for task in scoreboard.tasks}
    yield f"{report.evaluated}."
    if ranked:
        marks = {True: "↑: higher is better", False: "↓: lower is better"}
        arrows = "; ".join(marks[d] for d in (True, False) if d in directions)
        yield (
            f"{WINNER}: the best merge; merges are in the order of their scores. Bold "
            f"or *: the best of a column. {arrows}."
        )
        yield (
            "% of own expert: for each task, the score in percent of that of the "
            "expert that is best on it (inverted where lower is better, and "
            f"{MOST_SHARE:.0f} at most), averaged."
        )
        yield (
            "To the best peer: the mean less that of the best merge by another method. "
            "±: standard error over the items, paired where both answered the same. It "
            "says nothing of other fine-tuning seeds."
        )
    yield from _on_settings(report)
    for row in report.rows:
        if row.lost:
            yield (
                f"The model of {row.name} could not be kept: {row.lost}. Its recipe is "
                f"{row.recipe}."
            )
    if any(row.seconds is not None for row in report.rows):
        yield (
            "Seconds: of the merge, without start-up. GB: peak resident memory of its "
            "process, libraries included."
        )


def all_notes(report: Report) -> Iterator[str]:
    """The notes, and those that are too long for terminals."""
    yield from notes(report)
    yield from _long_notes(report)


def _long_notes(report: Report) -> Iterator[str]:
    """Every setting that was tried, and every recipe."""
    swept = [f"{row.name}: {_swept(row)}" for row in report.rows if len(row.tried) > 1]
    if swept:
        yield f"Tried: {'; '.join(swept)}."
    recipes = [f"{row.recipe} ({row.name})" for row in report.rows if row.recipe]
    if recipes:
        yield (
            f"Recipes that mergekit-yaml merges with --random-seed "
            f"{report.random_seed}: {', '.join(recipes)}."
        )


def _on_settings(report: Report) -> Iterator[str]:
    merges = [row for row in report.rows if row.kind == MERGE]
    swept = [row.name for row in merges if len(row.tried) > 1]
    if swept:
        if report.how_chosen:
            yield f"Settings were chosen on other items: {report.how_chosen}."
        else:
            yield (
                "The items that chose the settings are those shown: swept rows look "
                "better than they are."
            )
        if any(SCALE in tried.swept for row in merges for tried in row.tried):
            yield (
                f"{SCALE.capitalize()} is the lambda of linear: the base plus so many "
                "times the change that the average makes."
            )
        still = [row.name for row in merges if row.name not in swept and not row.given]
        if still:
            yield f"Not swept: {', '.join(still)}."
        most = max(len(row.tried) for row in merges)
        fewer = [
            f"{row.name} {len(row.tried)}"
            for row in merges
            if 1 < len(row.tried) < most
        ]
        if fewer:
            listed = ", ".join(fewer)
            yield f"{most} tries each, but as many as there are for: {listed}."
    if any(f"{AUTO} = " in row.label for row in merges):
        yield (
            f"lambda {AUTO}: the number behind it is what it became; over several "
            "tensors, the median and the range."
        )
    if at_edge := [row.name for row in merges if _is_at_edge(row)]:
        yield (
            f"Chosen at the edge of what was tried: {', '.join(at_edge)}. Their best "
            "may lie beyond."
        )
    if given := [f"{row.name} ({row.given})" for row in merges if row.given]:
        yield (
            f"Merged as given with --recipe: {', '.join(given)}. What chose their "
            "settings is not known here; if it saw the items that are shown, they look "
            "better than they are."
        )
    dropped = [f"{row.name} {row.note}" for row in merges if row.note]
    words = f" ({'; '.join(dropped)})" if dropped else ""
    yield (
        "Settings that were not given are the recipe's where they mean the same"
        f"{words}, else customary ones. Methods that add task vectors up, where others "
        "average, keep the proportions of the weights only."
    )


def _is_at_edge(row: Row) -> bool:
    """Whether the largest or smallest of several numbers was chosen."""
    chosen = next((tried.swept for tried in row.tried if tried.chosen), {})
    for name, value in chosen.items():
        values = [tried.swept[name] for tried in row.tried]
        if len(set(values)) < 3 or not all(isinstance(v, (int, float)) for v in values):
            continue
        # A fraction ends at 1.
        beyond = value < 1 or name not in ("density", "select_topk")
        if value in (min(values), max(values)) and beyond:
            return True
    return False


def _swept(row: Row) -> str:
    names = dict.fromkeys(name for tried in row.tried for name in tried.swept)
    parts = []
    for name in names:
        values = dict.fromkeys(tried.swept.get(name) for tried in row.tried)
        parts.append(f"{name} {', '.join(map(in_word, values))}")
    return " × ".join(parts)
