"""What a sweep counts and keeps to find order statistics of n models' values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mergekit_pcb.kernel.order_statistics import Bracket


@dataclass
class RankSearch:
    """Order statistics that are searched for, and what sweeps have seen of them.

    Attributes:
        brackets: for each of n models, one a rank.
        top: the largest value of each model; NaN if there was one.
    """

    brackets: list[list[Bracket]]
    top: list[float]

    @classmethod
    def of(cls, brackets: list[list[Bracket]]) -> RankSearch:
        """A search that has seen nothing."""
        return cls(brackets, [-math.inf] * len(brackets))

    def fresh(self) -> RankSearch:
        """The same search before anything was seen."""
        return RankSearch.of([[b.fresh() for b in row] for row in self.brackets])

    def lowest(self) -> list[float]:
        """For each model what values must reach to be looked at closely."""
        return [min((b.low for b in row), default=math.inf) for row in self.brackets]

    def absorb(self, other: RankSearch) -> None:
        """Add what the same search has seen elsewhere."""
        self.top = np.maximum(self.top, other.top).tolist()
        for mine, theirs in zip(self.brackets, other.brackets, strict=True):
            for bracket, seen in zip(mine, theirs, strict=True):
                bracket.absorb(seen)


# Values in each piece of memory that a `TensorArena` allocates.
_PIECE = 1 << 20


class TensorArena:
    """Memory for many small results, allocated in few large pieces.

    A small result that outlives the tensor it was computed from would be allocated
    between that tensor's intermediates and fragment the memory they free: memory use
    would grow with the number of layers.
    """

    def __init__(self) -> None:
        self._piece = torch.empty(0, device="cpu")
        self._used = 0

    def keep(self, values: torch.Tensor) -> torch.Tensor:
        """A copy of values on the CPU, in the same piece as those before."""
        start, end = self._used, self._used + values.numel()
        if end > self._piece.numel() or values.dtype != self._piece.dtype:
            start, end = 0, values.numel()
            self._piece = values.new_empty(max(end, _PIECE))
        self._used = end
        return self._piece[start:end].view(values.shape).copy_(values)


class NumpyCollector:
    """Counts and collects on a CPU; numpy is several times faster than torch here."""

    def __init__(self, search: RankSearch, size: int) -> None:
        """Begin a search among ``size`` values of each model."""
        self._search = search.fresh()
        self._arena = TensorArena()

    def add(self, values: torch.Tensor) -> None:
        """Take in a block of (n, m) values, which is neither modified nor kept."""
        block = values.numpy()
        top = block.max(axis=1)
        self._search.top = np.maximum(self._search.top, top).tolist()
        for row, brackets in zip(block, self._search.brackets, strict=True):
            for bracket in brackets:
                count_and_collect(bracket, row, self._arena)

    def result(self) -> RankSearch:
        """What was seen."""
        return self._search


def count_and_collect(bracket: Bracket, values: Any, arena: TensorArena) -> None:
    """Show some (m,) values, a numpy array, to a bracket."""
    low, high = np.array([bracket.low, bracket.high], dtype=values.dtype)
    above = values >= low
    bracket.below += values.size - int(np.count_nonzero(above))
    caught = values[above & (values <= high)]
    bracket.at_low += int(np.count_nonzero(caught == low))
    if low < high:
        bracket.at_high += int(np.count_nonzero(caught == high))
        inside = caught[(caught > low) & (caught < high)]
        bracket.inside.append(arena.keep(torch.from_numpy(inside)))


class DeviceCollector:
    """Counts and collects on an accelerator, and waits for it only for the result.

    Where a value goes is computed on the device as well, into memory of a fixed size:
    a boolean index would make the host wait to learn how many there are.
    """

    def __init__(self, search: RankSearch, size: int) -> None:
        """Begin a search among ``size`` values of each model."""
        self._search = search.fresh()
        self._top: torch.Tensor | None = None
        self._ranks = [
            [_RankOnDevice(bracket, size) for bracket in row]
            for row in self._search.brackets
        ]

    def add(self, values: torch.Tensor) -> None:
        """Take in a block of (n, m) values, which is neither modified nor kept."""
        top = values.amax(dim=1)
        self._top = top if self._top is None else torch.maximum(self._top, top)
        for row, of_model in zip(values, self._ranks, strict=True):
            for rank in of_model:
                rank.add(row)

    def result(self) -> RankSearch:
        """What was seen, on the CPU; waits for the device."""
        for of_model in self._ranks:
            for rank in of_model:
                rank.finish()
        if self._top is not None:
            self._search.top = self._top.tolist()
        return self._search


class _RankOnDevice:
    """Counts and collects for one bracket."""

    def __init__(self, bracket: Bracket, size: int) -> None:
        self._bracket = bracket
        # Twice as many as are likely, and a few more.
        self._capacity = int(min(2 * bracket.expected + 4096, size))
        self._kept: torch.Tensor | None = None
        self._counts: Sequence[torch.Tensor] = ()

    def add(self, row: torch.Tensor) -> None:
        if self._kept is None:
            counts = torch.zeros(4, dtype=torch.int64, device=row.device)
            self._counts = counts.unbind()
            # The last place takes all values that are not wanted or have no place.
            self._kept = row.new_empty(self._capacity + 1)
        low, high = row.new_tensor([self._bracket.low, self._bracket.high])
        below, at_low, at_high, used = self._counts
        inside = (row > low) & (row < high)
        place = inside.cumsum(dim=0).add_(used - 1).clamp_(max=self._capacity)
        self._kept.scatter_(0, place.masked_fill_(~inside, self._capacity), row)
        used += inside.sum()
        below += (row < low).sum()
        at_low += (row == low).sum()
        at_high += (row == high).sum()

    def finish(self) -> None:
        if self._kept is None:
            return
        bracket = self._bracket
        counts = torch.stack(tuple(self._counts)).tolist()
        bracket.below, bracket.at_low, at_high, used = counts
        bracket.at_high = at_high if bracket.low < bracket.high else 0
        bracket.inside = [self._kept[: min(used, self._capacity)].cpu()]
        bracket.lost = used > self._capacity
