"""Means over seeds of the comparisons that a result's file has, and their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.cases import Case, Found
from mergekit_pcb.compare.evaluation import standard_error
from mergekit_pcb.compare.scoreboard import BASE, EXPERT, MERGE

OWN, BEST_SINGLE = "own experts", "best single expert"

Measured = Sequence[tuple[Case, Found]]


@dataclass(frozen=True)
class Line:
    """A row of a summary, over the replicates of a group.

    Attributes:
        name: of the row.
        kind: `BASE`, `EXPERT` or `MERGE`.
        values: the mean over tasks of each replicate, in their order.
        gaps: likewise, the paired difference from pcb; empty where there is none.
        settings: of each replicate.
    """

    name: str
    kind: str
    values: Sequence[float]
    gaps: Sequence[float]
    settings: Sequence[str]

    @property
    def mean(self) -> float:
        """Over the replicates."""
        return fmean(self.values)

    @property
    def error(self) -> float | None:
        """Standard error of the mean over replicates."""
        return standard_error(self.values)

    @property
    def gap(self) -> float | None:
        """Mean difference from pcb."""
        return fmean(self.gaps) if self.gaps else None

    @property
    def gap_error(self) -> float | None:
        """Its standard error: replicates are paired."""
        return standard_error(self.gaps)


def groups(measured: Measured, *, tuned: bool) -> dict[str, Measured]:
    """The comparisons of each block of a table."""
    found: dict[str, list[tuple[Case, Found]]] = {}
    for case, result in measured:
        if case["tuned"] == tuned:
            found.setdefault(case["group"], []).append((case, result))
    return dict(found)


def summarise(group: Measured, *, higher_is_better: bool) -> list[Line]:
    """Base, experts, and the merges, best first.

    A row that failed in one replicate is left out.
    """
    boards = [_board(case, found, higher_is_better) for case, found in group]
    names = [name for name in boards[0] if all(name in board for board in boards[1:])]
    ours = [board.get("pcb") for board in boards]
    lines = []
    for name in names:
        rows = [board[name] for board in boards]
        gaps = [
            row["mean"] - our["mean"]
            for row, our in zip(rows, ours, strict=True)
            if our is not None
        ]
        lines.append(
            Line(
                name,
                rows[0]["kind"],
                [row["mean"] for row in rows],
                gaps if len(gaps) == len(rows) else [],
                [row["settings"] for row in rows],
            )
        )
    merges = [line for line in lines if line.kind == MERGE]
    merges.sort(key=lambda line: line.mean, reverse=higher_is_better)
    return [line for line in lines if line.kind != MERGE] + merges


def failures(group: Measured) -> dict[str, str]:
    """Rows that failed in a replicate, and why."""
    return {
        row["name"]: row["failed"]
        for _, found in group
        for row in found["rows"]
        if row["failed"]
    }


def best_peer(lines: Sequence[Line]) -> Line | None:
    """The best merge that is not by pcb; lines are in order."""
    return next(
        (line for line in lines if line.kind == MERGE and "pcb" not in line.name), None
    )


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each point."""
    return [fmean(column) for column in zip(*curves, strict=True)]


def _board(
    case: Case, found: Found, higher_is_better: bool
) -> dict[str, Mapping[str, Any]]:
    """Rows of a comparison by name, the experts as two rows."""
    board: dict[str, dict[str, Any]] = {}
    experts = [row for row in found["rows"] if row["kind"] == EXPERT]
    for row in found["rows"]:
        if row["kind"] != EXPERT and not row["failed"]:
            board[row["name"]] = _entry(row["kind"], row["values"], row["settings"])
        if row["kind"] == BASE:
            board |= _expert_rows(case, experts, higher_is_better)
    return board


def _expert_rows(
    case: Case, experts: Sequence[Mapping[str, Any]], higher_is_better: bool
) -> dict[str, dict[str, Any]]:
    best = max if higher_is_better else min
    single = best(experts, key=lambda row: fmean(row["values"].values()))
    rows = {BEST_SINGLE: _entry(EXPERT, single["values"], single["name"])}
    own = {row["name"]: row["values"].get(row["name"]) for row in experts}
    # Only where each task has one expert.
    if set(own) == set(case["shown"]) and len(own) == len(experts):
        rows = {OWN: _entry(EXPERT, own, "")} | rows
    return rows


def _entry(kind: str, values: Mapping[str, float], settings: str) -> dict[str, Any]:
    return {"kind": kind, "mean": fmean(values.values()), "settings": settings}
