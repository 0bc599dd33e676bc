"""What a sweep over scores keeps for the merge, so that it need not read them again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from mergekit_pcb.kernel.domain import ModelStatistics, Scoring

# Bytes kept of a tensor: six million task values that survive.
BUDGET = 64_000_000
# Bytes of a line of the processor's cache.
_LINE = 64


class Survivors(NamedTuple):
    """The scores of a block that may reach their model's threshold.

    Flat numpy arrays, tile by tile, and of each tile model by model. ``places``, ``b``
    and ``v`` may be longer than what is counted.

    Attributes:
        places: uint16, the coordinate in its tile.
        b: float32 score.
        v: float32 clamped task value, in the unit of the scoring.
        counts: (tiles, n) int32, how many there are.
    """

    places: Any
    b: Any
    v: Any
    counts: Any


class KeptSurvivors:
    """Survivors of the blocks of one tensor, within a budget of memory."""

    def __init__(self, memory: Any) -> None:
        """Nothing is kept yet.

        Args:
            memory: to keep them in, uint8.
        """
        self._lock = threading.Lock()
        self._memory = memory
        self.begin(None, [])

    def begin(self, scoring: Scoring | None, cuts: Sequence[float]) -> None:
        """Forget everything: another sweep begins.

        Args:
            scoring: of this sweep; None if it is over magnitudes.
            cuts: for each model, what scores that survive must reach.
        """
        self._scoring, self._cuts = scoring, cuts
        self._blocks: dict[int, Survivors] = {}
        self._used = 0

    def keep(self, span: slice, found: Survivors, room: int) -> None:
        """Keep a copy of what was found at a slice, if it is within the budget.

        Args:
            span: the coordinates.
            found: what survived there.
            room: values to copy beyond those that are counted.
        """
        count = int(found.counts.sum()) + room
        parts = [part[:count] for part in found[:3]]
        with self._lock:
            start = self._used
            self._used += sum(-(-part.nbytes // _LINE) * _LINE for part in parts)
            if self._used > len(self._memory):
                self._used = start
                return
        copies = []
        for part in parts:
            copies.append(self._memory[start : start + part.nbytes].view(part.dtype))
            copies[-1][:] = part
            start += -(-part.nbytes // _LINE) * _LINE
        places, b, v = copies
        self._blocks[span.start] = Survivors(places, b, v, found.counts.copy())

    def at(
        self, span: slice, scoring: Scoring, statistics: Sequence[ModelStatistics]
    ) -> Survivors | None:
        """What survived at a slice, if it was kept and nothing else is needed."""
        if span.start not in self._blocks or scoring != self._scoring:
            return None
        pairs = zip(self._cuts, statistics, strict=True)
        if any(cut > of_model.threshold for cut, of_model in pairs):
            return None
        return self._blocks[span.start]


@contextmanager
def kept_survivors() -> Iterator[KeptSurvivors]:
    """Memory for the survivors of a tensor, which the next tensor gets again."""
    # In one piece the system gives it in large pages, and only those that are written
    # to. That takes a twentieth of the time of a merge.
    try:
        memory = _spare.pop()
    except IndexError:
        memory = np.empty(BUDGET, dtype=np.uint8)
    try:
        yield KeptSurvivors(memory)
    finally:
        _spare.append(memory)


_spare: list[Any] = []
