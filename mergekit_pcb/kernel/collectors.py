"""What a sweep over many blocks learns of n models' values, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from mergekit_pcb.kernel.order_statistics import Bracket

# Values from inside a bracket that may wait until its edges are told from the rest.
_WAITING = 1 << 14


class NotFiniteError(ValueError):
    """A task vector holds NaN or infinity."""


def require_finite(tops: Sequence[float]) -> None:
    """Refuse the largest magnitudes of models if one of them is not a number.

    Raises:
        NotFiniteError: it is not.
    """
    for i, top in enumerate(tops):
        if not top < math.inf:
            raise NotFiniteError(f"task vector {i} is not finite")


@dataclass
class Survey:
    """Some ranks of each model's values, and the top.

    Attributes:
        brackets: for each of n models, those that look for its ranks.
        top: the largest value of each model; NaN if there was one.
    """

    brackets: list[list[Bracket]]
    top: list[float]

    @classmethod
    def of(cls, brackets: list[list[Bracket]]) -> Survey:
        """A survey that has yet to see anything."""
        return cls(brackets, [-math.inf] * len(brackets))

    def fresh(self) -> Survey:
        """The same questions before anything was seen."""
        return Survey.of([[b.fresh() for b in row] for row in self.brackets])

    def absorb(self, other: Survey) -> None:
        """Add what another part of the sweep has seen."""
        self.top = np.maximum(self.top, other.top).tolist()
        for mine, theirs in zip(self.brackets, other.brackets, strict=True):
            for bracket, seen in zip(mine, theirs, strict=True):
                bracket.absorb(seen)


class Collector(Protocol):
    """Looks at blocks of values on behalf of a survey."""

    def observe(self, values: torch.Tensor) -> None:
        """Take in a block of (n, m) values, which is not modified and not kept."""

    def report(self) -> Survey:
        """What was seen; on the CPU."""


@dataclass
class Layer:
    """One bracket each of some models, that can be looked for in the same breath.

    Attributes:
        rows: the models, or a slice for all of them, which copies nothing.
        brackets: one a model.
    """

    rows: Any
    brackets: list[Bracket]

    @property
    def edges(self) -> Any:
        """(2, models, 1) bounds."""
        return np.array([[[b.low, b.high] for b in self.brackets]]).T


def _layers(survey: Survey) -> list[Layer]:
    layers = []
    for k in range(max(map(len, survey.brackets), default=0)):
        rows = [i for i, row in enumerate(survey.brackets) if len(row) > k]
        everybody = len(rows) == len(survey.brackets)
        brackets = [survey.brackets[i][k] for i in rows]
        layers.append(Layer(slice(None) if everybody else rows, brackets))
    return layers


class NumpyCollector:
    """Compares and compresses with numpy: several times faster than torch there."""

    def __init__(self, survey: Survey, size: int) -> None:
        """Take the questions; ``size`` values a model will be seen."""
        self._seen = survey.fresh()
        self._top: Any = np.array(self._seen.top)
        self._layers = _layers(self._seen)
        self._nets = [Net(brackets) for brackets in self._seen.brackets]
        self._masks: Any = np.empty(0, dtype=bool)

    def observe(self, values: torch.Tensor) -> None:
        """Take in a block of (n, m) values."""
        block = values.numpy()
        self._top = np.maximum(self._top, block.max(axis=1))
        if self._layers:
            self._catch(block)

    def _catch(self, block: Any) -> None:
        """Count what is below each bracket, and keep what is inside."""
        if self._masks.size < 3 * block.size:
            self._masks = np.empty(3 * block.size, dtype=bool)
        caught, *masks = self._masks[: 3 * block.size].reshape(3, *block.shape)
        caught[:] = False
        for layer in self._layers:
            rows = block[layer.rows]
            low, high = layer.edges.astype(rows.dtype)
            near, under = (mask[: len(rows)] for mask in masks)
            np.greater_equal(rows, low, out=near)
            for bracket, row in zip(layer.brackets, near, strict=True):
                bracket.below += row.size - np.count_nonzero(row)
            near &= np.less_equal(rows, high, out=under)
            caught[layer.rows] |= near
        # Once for all brackets of a model: this costs more than the comparisons.
        for net, row, near in zip(self._nets, block, caught, strict=True):
            net.take(row[near])

    def report(self) -> Survey:
        """What was seen."""
        for net in self._nets:
            net.settle()
        self._seen.top = self._top.tolist()
        return self._seen


class Net:
    """Holds what was caught for a model's brackets until it is told whose it is."""

    def __init__(self, brackets: list[Bracket], *, edges_counted: bool = False) -> None:
        """Take the brackets, and whether somebody else counts what is at their edges.

        What is at an edge of one may be inside another, and be caught for that.
        """
        self.brackets = brackets
        self._edges_counted = edges_counted
        self._caught: list[Any] = []
        self._count = 0

    def take(self, caught: Any) -> None:
        """Keep some values, which may be anybody's."""
        self._caught.append(caught)
        self._count += len(caught)
        if self._count > _WAITING:
            self.settle()

    def settle(self) -> None:
        """Give every bracket its own."""
        if not self._count:
            return
        values = np.concatenate(self._caught)
        self._caught, self._count = [], 0
        for bracket in self.brackets:
            low, high = bracket.low, bracket.high
            if not self._edges_counted:
                bracket.at_low += int(np.count_nonzero(values == low))
            if low < high:
                if not self._edges_counted:
                    bracket.at_high += int(np.count_nonzero(values == high))
                inside = values[(values > low) & (values < high)]
                bracket.inside.append(torch.from_numpy(inside))


class DeviceCollector:
    """Makes an accelerator count and collect, and waits for it only to report.

    Where values go is computed on the device as well, into memory of a fixed size: a
    boolean index would have to tell the host how many there are.
    """

    def __init__(self, survey: Survey, size: int) -> None:
        """Take the questions; ``size`` values a model will be seen."""
        self._seen = survey.fresh()
        self._top: torch.Tensor | None = None
        self._parts = [_DevicePart(layer, size) for layer in _layers(self._seen)]

    def observe(self, values: torch.Tensor) -> None:
        """Take in a block of (n, m) values."""
        top = values.amax(dim=1)
        self._top = top if self._top is None else torch.maximum(self._top, top)
        for part in self._parts:
            part.observe(values)

    def report(self) -> Survey:
        """What was seen; waits for the device."""
        for part in self._parts:
            part.report()
        if self._top is not None:
            self._seen.top = self._top.tolist()
        return self._seen


class _DevicePart:
    """Counts and collects for one layer of brackets."""

    def __init__(self, layer: Layer, size: int) -> None:
        self._layer = layer
        # Twice what is likely, and some.
        expected = max(bracket.expected for bracket in layer.brackets)
        self._room = int(min(2 * expected + 4096, size))
        self._kept: torch.Tensor | None = None
        self._edges: Sequence[torch.Tensor] = ()
        self._counts: Sequence[torch.Tensor] = ()

    def observe(self, values: torch.Tensor) -> None:
        rows = values[self._layer.rows]
        if self._kept is None:
            self._edges = rows.new_tensor(self._layer.edges).unbind()
            counts = torch.zeros(4, len(rows), 1, dtype=torch.int64)
            self._counts = counts.to(rows.device).unbind()
            # The last column is for all that is not wanted or has no room.
            self._kept = rows.new_empty(len(rows), self._room + 1)
        low, high = self._edges
        below, at_low, at_high, used = self._counts
        inside = (rows > low) & (rows < high)
        place = inside.cumsum(dim=1).add_(used - 1).clamp_(max=self._room)
        self._kept.scatter_(1, place.masked_fill_(~inside, self._room), rows)
        used += inside.sum(dim=1, keepdim=True)
        below += (rows < low).sum(dim=1, keepdim=True)
        at_low += (rows == low).sum(dim=1, keepdim=True)
        at_high += (rows == high).sum(dim=1, keepdim=True)

    def report(self) -> None:
        if self._kept is None:
            return
        of_brackets = torch.cat(tuple(self._counts), dim=1).tolist()
        for bracket, counts, kept in zip(
            self._layer.brackets, of_brackets, self._kept, strict=True
        ):
            bracket.below, bracket.at_low, at_high, used = counts
            bracket.at_high = at_high if bracket.low < bracket.high else 0
            bracket.inside = [kept[: min(used, self._room)].cpu()]
            bracket.lost = used > self._room
