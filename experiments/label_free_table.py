"""The table of `experiments.label_free`: test scores of what each way chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments.summary import Measured
from mergekit_pcb.compare.evaluation import TEST, VALIDATION, standard_error
from mergekit_pcb.search.space import PCB, TASK_ARITHMETIC

# Inputs of each expert; the validation items give several disjoint draws of the fewer.
COUNTS = (4, 8, 16, 32, 64)
UNTUNED = "pcb, untuned"
# Weights of the peers: those of `compare`.
PEERS: Mapping[str, Mapping[str, Any]] = {
    "ties": {"weight": 1.0},
    "dare_ties": {"weight": 0.4},
}
# What `mergekit-pcb search` tries.
OURS = (PCB, TASK_ARITHMETIC)

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


def chosen_by_agreement(rows: Rows, count: int) -> list[Mapping[str, Any]]:
    """What each disjoint draw of so many inputs an expert chooses."""
    draws = [row["agreement"][str(count)] for row in rows]
    best = [
        min(range(len(rows)), key=one.__getitem__) for one in zip(*draws, strict=True)
    ]
    return [rows[i] for i in best]


def _choices(boards: Sequence[Rows]) -> Iterator[tuple[str, str, list[float], Any]]:
    """What is chosen from, by what, the test scores and names of each seed."""
    yield "pcb", "nothing (untuned)", [rows[0][TEST] for rows in boards], ()
    ours = _of(boards, OURS)
    grid = "search's grid"
    yield grid, "chance", [fmean(row[TEST] for row in rows) for rows in ours], ()
    for count in COUNTS:
        chosen = [chosen_by_agreement(rows, count) for rows in ours]
        means = [fmean(row[TEST] for row in draws) for draws in chosen]
        several = f", mean of {len(chosen[0])} draws" if len(chosen[0]) > 1 else ""
        names = [rows[0]["candidate"] for rows in chosen] if not several else ()
        yield grid, f"agreement, {count} inputs{several}", means, names
    sources = {grid: ours, "all": boards}
    sources |= {m: _of(boards, [m]) for m in (*OURS, *PEERS)}
    for where, some in sources.items():
        best = [max(rows, key=lambda row: row[VALIDATION]) for rows in some]
        names = [row["candidate"] for row in best]
        yield where, "labels", [row[TEST] for row in best], names


def _of(boards: Sequence[Rows], methods: Sequence[str]) -> list[Rows]:
    return [[row for row in rows if _method(row) in methods] for rows in boards]


def _method(row: Mapping[str, Any]) -> str:
    return str(row["candidate"]).partition(",")[0].partition(":")[0]


def _mean_and_error(values: Sequence[float], sign: str = "") -> list[str]:
    error = standard_error(values)
    return [f"{fmean(values):{sign}.2f}", "" if error is None else f"{error:.2f}"]
