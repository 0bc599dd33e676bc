"""The table of `experiments.label_free`: test scores of what each way chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from experiments.label_free_candidates import PEERS, SEARCH, UNTUNED
from experiments.label_free_scores import COUNTS, WHOSE
from experiments.summary import Measured
from mergekit_pcb.compare.evaluation import TEST, VALIDATION, standard_error

# The candidates of one seed.
Rows = Sequence[Mapping[str, Any]]


def table(measured: Measured) -> Iterator[str]:
    """Means over seeds for each number of models, in points of accuracy."""
    for group in dict.fromkeys(case["group"] for case, _ in measured):
        found = [result for case, result in measured if case["group"] == group]
        yield f"### {group} ({len(found)} seeds)"
        yield ""
        yield "| chosen from | by | test | ± | chosen with each seed |"
        yield "| --- | --- | ---: | ---: | --- |"
        for where, by, scores, names in _choices([each["rows"] for each in found]):
            cells = [where, by, *_mean_and_error(scores), "; ".join(names)]
            yield f"| {' | '.join(cells)} |"
        yield ""
        yield "| weights by | equal | found | gain | ± |"
        yield "| --- | ---: | ---: | ---: | ---: |"
        for by in found[0]["weights"]:
            pairs = [each["weights"][by] for each in found]
            before, after = ([p[key] for p in pairs] for key in ("before", "after"))
            gains = [b - a for a, b in zip(before, after, strict=True)]
            cells = [by, f"{fmean(before):.2f}", f"{fmean(after):.2f}"]
            yield f"| {' | '.join([*cells, *_mean_and_error(gains, '+')])} |"
        yield ""


def chosen(rows: Rows, draws: Callable[[Mapping[str, Any]], Sequence[float]]) -> Rows:
    """What each draw of inputs chooses: the first row of the fewest bits.

    Args:
        rows: to choose from.
        draws: the bits of a row, one for each draw.
    """
    by_draw = zip(*map(draws, rows), strict=True)
    return [rows[min(range(len(rows)), key=bits.__getitem__)] for bits in by_draw]


class _Choice(NamedTuple):
    """A line of the table: for each seed, the test score and the name of its choice."""

    where: str
    by: str
    scores: Sequence[float]
    names: Sequence[str] = ()


def _choices(boards: Sequence[Rows]) -> Iterator[_Choice]:
    untuned = [rows[0][TEST] for rows in _of(boards, UNTUNED)]
    yield _Choice("pcb", "nothing (untuned)", untuned)
    ours, grid = _of(boards, SEARCH), "search's grid"
    chance = [fmean(row[TEST] for row in rows) for rows in ours]
    yield _Choice(grid, "chance", chance)
    for count in COUNTS:
        yield _by_agreement(
            grid, f"{count} inputs", ours, lambda row, n=count: row["agreement"][str(n)]
        )
    for whose in WHOSE:
        yield _by_agreement(
            grid,
            f"{COUNTS[-1]} inputs, {whose}",
            ours,
            lambda row, w=whose: row["whose"][w],
        )
    sources = {grid: ours}
    sources |= {f"{each}, 28 tries": _of(boards, each) for each in PEERS}
    sources |= {"all of these": boards}
    for where, some in sources.items():
        best = [max(rows, key=lambda row: row[VALIDATION]) for rows in some]
        names = [row["candidate"] for row in best]
        yield _Choice(where, "labels", [row[TEST] for row in best], names)


def _by_agreement(
    where: str,
    inputs: str,
    boards: Sequence[Rows],
    draws: Callable[[Mapping[str, Any]], Sequence[float]],
) -> _Choice:
    each = [chosen(rows, draws) for rows in boards]
    means = [fmean(row[TEST] for row in rows) for rows in each]
    if (count := len(each[0])) > 1:
        return _Choice(where, f"agreement, {inputs}, mean of {count} draws", means)
    names = [rows[0]["candidate"] for rows in each]
    return _Choice(where, f"agreement, {inputs}", means, names)


def _of(boards: Sequence[Rows], source: str) -> list[Rows]:
    return [[row for row in rows if row["from"] == source] for rows in boards]


def _mean_and_error(values: Sequence[float], sign: str = "") -> list[str]:
    error = standard_error(values)
    return [f"{fmean(values):{sign}.2f}", "" if error is None else f"{error:.2f}"]
