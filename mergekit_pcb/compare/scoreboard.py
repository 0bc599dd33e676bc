"""The scores of a comparison: means, shares of the experts' scores, differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from mergekit_pcb.compare.evaluation import Scores, error_of_difference, error_of_mean

BASE, EXPERT, MERGE = "base", "expert", "merge"

MOST_SHARE = 1000.0
"""The largest share in percent: a loss of 0 would make it infinite."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        kind: `BASE`, `EXPERT` or `MERGE`.
        name: of the model or candidate.
        method: of a merge.
        label: its settings in words.
        scores: by task, as shown.
        note: what is different for this merge.
        given: the file, if it is a recipe of the user's, merged as it is.
        failed: why there are no scores.
        lost: why the merged model, which has scores, could not be kept.
        seconds: the merge took.
        peak_bytes: the merge needed.
        tried: every setting of which this is the best: label, values, and the scores
            that chose.
        recipe: its file, in the folder of the comparison.
        model: where the merged model is, if it was kept.
    """

    kind: str
    name: str
    scores: Scores = field(default_factory=dict)
    method: str = ""
    label: str = ""
    note: str = ""
    given: str = ""
    failed: str = ""
    lost: str = ""
    seconds: float | None = None
    peak_bytes: int | None = None
    tried: Sequence[Tried] = ()
    recipe: str = ""
    model: str = ""


@dataclass(frozen=True)
class Tried:
    """One setting of a merge, and what it scored on the items that choose."""

    label: str
    swept: dict[str, Any]
    scores: Scores = field(default_factory=dict)
    failed: str = ""
    chosen: bool = False


class Difference(NamedTuple):
    """How much more one row has than another, and how sure that is."""

    value: float
    error: float | None

    @property
    def is_level(self) -> bool:
        """Whether it is none, or within twice its standard error."""
        return not self.value or abs(self.value) <= 2 * (self.error or 0)


class Scoreboard:
    """Means, shares and differences of the scores of some rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Take the rows; those that failed have no scores."""
        self.rows = rows
        self.tasks = list(dict.fromkeys(task for row in rows for task in row.scores))
        self._own = {task: self._best_expert(task) for task in self.tasks}

    def higher_is_better(self, task: str) -> bool | None:
        """The direction of a task."""
        return next(
            r.scores[task].higher_is_better for r in self.rows if task in r.scores
        )

    @property
    def direction(self) -> bool | None:
        """Whether high means are good; None if tasks differ or have no direction."""
        directions = {self.higher_is_better(task) for task in self.tasks}
        return directions.pop() if len(directions) == 1 else None

    def _best_expert(self, task: str) -> float | None:
        values = [
            row.scores[task].value
            for row in self.rows
            if row.kind == EXPERT and task in row.scores
        ]
        best = max if self.higher_is_better(task) else min
        return best(values) if values else None

    def normalised(self, row: Row, task: str) -> float | None:
        """A score in percent of that of the expert that is best on the task.

        Where lower is better it is the other way round, so that 100 is as good as the
        expert and more is better, up to `MOST_SHARE`. None where a ratio means nothing.
        """
        own, higher = self._own[task], self.higher_is_better(task)
        if own is None or higher is None or task not in row.scores:
            return None
        value = row.scores[task].value
        over, under = (value, own) if higher else (own, value)
        if over < 0 or under < 0 or (higher and not own):
            return None
        if not under:  # no error at all
            return MOST_SHARE if over else 100.0
        return min(100 * over / under, MOST_SHARE)

    def mean(self, row: Row) -> float | None:
        """Mean over the tasks, if they all have the same direction."""
        if self.direction is None or not row.scores.keys() >= set(self.tasks):
            return None
        return fmean(row.scores[task].value for task in self.tasks)

    def mean_error(self, row: Row) -> float | None:
        """Standard error of the mean: tasks are taken as independent."""
        if self.mean(row) is None:
            return None
        return error_of_mean([row.scores[task].error for task in self.tasks])

    def mean_normalised(self, row: Row) -> float | None:
        """Mean over the tasks of `normalised`."""
        shares = [self.normalised(row, task) for task in self.tasks]
        known = [share for share in shares if share is not None]
        return fmean(known) if shares and len(known) == len(shares) else None

    def score(self, row: Row) -> float | None:
        """One number for a row: the mean, or the mean share if there are no means."""
        return self.mean_normalised(row) if self.direction is None else self.mean(row)

    def rank_score(self, row: Row) -> float | None:
        """The `score`, with its sign changed where lower is better."""
        score = self.score(row)
        return -score if score is not None and self.direction is False else score

    def best(self, rows: Sequence[Row]) -> Row | None:
        """The row with the highest `rank_score`; the first of equals."""
        ranked = [(self.rank_score(row), row) for row in rows]
        known = [(score, row) for score, row in ranked if score is not None]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def in_order(self) -> list[Row]:
        """The rows with the merges last, the best first; those that failed at the end.

        Rows without a score stay in their order.
        """
        references = [row for row in self.rows if row.kind != MERGE]
        merges = [row for row in self.rows if row.kind == MERGE]

        def place(row: Row) -> tuple[bool, float]:
            score = None if row.failed else self.rank_score(row)
            return bool(row.failed), math.inf if score is None else -score

        return references + sorted(merges, key=place)

    @property
    def merges(self) -> list[Row]:
        """The merges that have scores."""
        return [row for row in self.rows if row.kind == MERGE and not row.failed]

    def best_peer(self, row: Row) -> Row | None:
        """The best merge by another method than this merge's, if it has scores.

        Other scopes of the same method are no peers.
        """
        if row.kind != MERGE or row.failed:
            return None
        return self.best([peer for peer in self.merges if peer.method != row.method])

    def difference(self, row: Row) -> Difference | None:
        """How much more a merge scores than its best peer, if it has one."""
        peer = self.best_peer(row)
        return None if peer is None else self.gap(row, peer)

    def gap(self, row: Row, other: Row) -> Difference | None:
        """How much more a row scores than another one.

        Both have answered the same items, so where those are known the error is that of
        the paired differences, which is smaller than that of two samples. Differences
        of shares have none.
        """
        mine, others = self.score(row), self.score(other)
        if mine is None or others is None:
            return None
        tasks = [] if self.direction is None else self.tasks
        errors = [
            error_of_difference(row.scores[task], other.scores[task]) for task in tasks
        ]
        return Difference(mine - others, error_of_mean(errors))
