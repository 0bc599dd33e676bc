"""Sweeps over a tensor by compiled loops, for `inter: raw` and float32 on a CPU.

The functions are those of `torch_backend`, with the same results bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mergekit_pcb.kernel import numba_loops
from mergekit_pcb.kernel.collectors import RankSearch
from mergekit_pcb.kernel.domain import ModelStatistics, Scoring
from mergekit_pcb.kernel.formula import exponent_of
from mergekit_pcb.kernel.numba_loops import Array
from mergekit_pcb.kernel.order_statistics import (
    Bracket,
    OverflowedError,
    require_finite,
)
from mergekit_pcb.kernel.sampling import sample_coordinates
from mergekit_pcb.kernel.task_vectors import TaskVectors, bits_of

# Task values in a block: it stays in the last-level cache, and the few calls that it
# needs do not matter.
BLOCK = 1 << 18

# Collected values that may wait until they are assigned to their brackets.
_PENDING = 1 << 14


def block_size(device: torch.device) -> int:
    """Task values to work on at a time."""
    return BLOCK


@dataclass(frozen=True)
class InMemory:
    """A tensor of one block as a domain, see `domain.Domain`."""

    tau: Array
    exponent: Array

    @property
    def size(self) -> int:  # noqa: D102 as in domain.Domain
        return int(self.tau.shape[1])

    @property
    def models(self) -> int:  # noqa: D102
        return int(self.tau.shape[0])

    def sample(self) -> Array:  # noqa: D102
        drawn = sample_coordinates(self.size, self.models)
        return self.tau if drawn is None else self.tau[:, drawn.numpy()]

    def order_statistics(  # noqa: D102
        self, scoring: Scoring | None, ranks: Sequence[list[int]]
    ) -> tuple[Sequence[Sequence[float]], Sequence[float]]:
        values = np.abs(self.tau)
        if scoring is not None:
            tau = _in_unit(self.tau, scoring.unit)
            extents = _rows(scoring.extents)
            numba_loops.all_scores(tau, self.exponent, extents, values)
        bits = np.array([[*row, self.size - 1] for row in ranks], dtype=np.int64)
        numba_loops.select(values.view(np.int32), bits)
        found = bits.astype(np.int32).view(np.float32).tolist()
        top = [row.pop() for row in found]
        require_finite(top)
        return found, top


def in_memory(tensor: TaskVectors) -> InMemory:
    """A tensor of one block as a domain."""
    loader = _Loader(tensor)
    return InMemory(loader.load(slice(0, tensor.size)), loader.exponent)


def collect(
    tensor: TaskVectors,
    scoring: Scoring | None,
    search: RankSearch,
    spans: Iterator[slice],
) -> RankSearch:
    """What a search sees at some slices, as `torch_backend.collect`."""
    collector = NumbaCollector(search)
    loader = _Loader(tensor)
    for span in spans:
        collector.add(loader.load(span), loader.exponent, scoring)
    return collector.result()


def merge(
    tensor: TaskVectors,
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    scale: float,
    inter: str,
    out: torch.Tensor,
    spans: Iterator[slice],
) -> None:
    """Merge a tensor at some slices, as `torch_backend.merge`."""
    scoring = Scoring.of_statistics(statistics, inter)
    extents = _rows(scoring.extents)
    cut = _rows(
        [
            (m.threshold, m.top - m.threshold, w)
            for m, w in zip(statistics, weight, strict=True)
        ]
    )
    equal = np.array([m.has_equal_scores for m in statistics])
    loader = _Loader(tensor)
    for span in spans:
        tau = _in_unit(loader.load(span), scoring.unit)
        merged = loader.merged
        numba_loops.merge(tau, loader.exponent, extents, cut, equal, merged.numpy())
        if scoring.unit != 1:
            merged *= 1 / scoring.unit
        loader.write(merged, scale, span, out)


def squares(tau: Any) -> Array:
    """Sums of the squares of (n, m) task vectors, as `torch_backend`."""
    found = np.zeros(len(tau))
    numba_loops.squares(np.asarray(tau), found)
    return found


def project(
    tau: Any, statistics: Sequence[ModelStatistics], inter: str, parts: Array
) -> Array:
    """Sums of contributions times task vectors, as `torch_backend`."""
    scoring = Scoring.of_statistics(statistics, inter)
    cut = _rows([(m.threshold, m.top - m.threshold, 1) for m in statistics])
    equal = np.array([m.has_equal_scores for m in statistics])
    kept = np.zeros(len(tau))
    numba_loops.project(
        _in_unit(np.asarray(tau), scoring.unit),
        np.array(exponent_of(len(tau)), dtype=np.float32),
        _rows(scoring.extents),
        cut,
        equal,
        parts / scoring.unit,
        kept,
    )
    return kept / scoring.unit


def _in_unit(tau: Array, unit: float) -> Array:
    """As `formula.in_unit`."""
    return tau if unit == 1 else tau * np.float32(unit)


def _rows(rows: Sequence[Sequence[float]]) -> Array:
    return np.array(rows, dtype=np.float32)


class _Loader:
    """Loads one block after the other into the same memory, and writes merged ones.

    Attributes:
        exponent: what u^2 is multiplied and reduced by, see `formula.exponent_of`.
        merged: (m,) memory for the merged task vector of the block loaded last.
    """

    def __init__(self, tensor: TaskVectors) -> None:
        self.exponent: Array = np.array(exponent_of(len(tensor.models)), dtype="f4")
        self.merged = torch.empty(0)
        self._tensor = tensor
        self._memory = torch.empty(0)
        # Loops read bfloat16 themselves: views of torch take longer to make than a
        # small block takes to load.
        self._bits = [] if tensor.base is None else tensor.bfloat16_bits

    def load(self, span: slice) -> Array:
        """The (n, m) task vectors at a slice."""
        n, count = len(self._tensor.models), span.stop - span.start
        needed = (n + 2) * count
        if len(self._memory) < needed:
            # Fresh memory for every block would cost more than the arithmetic.
            self._memory = torch.empty(needed)
        rows = self._memory[:needed].view(n + 2, count)
        self.merged, tau = rows[-1], rows[:n].numpy()
        if self._bits:
            *models, base = [bits[span] for bits in self._bits]
            for model, task_vector in zip(models, tau, strict=True):
                numba_loops.subtract(model, base, task_vector)
        else:
            self._tensor.between(span, rows[: n + 1])
        return tau

    def write(
        self, merged: torch.Tensor, scale: float, span: slice, out: torch.Tensor
    ) -> None:
        """Put base + lambda * merged task vector into (d,) ``out`` at a slice."""
        if self._bits:
            base, target = self._bits[-1][span], bits_of(out[span])
            with np.errstate(over="ignore"):
                factor = np.float32(scale)
            if not numba_loops.add_to_base(merged.numpy(), factor, base, target):
                raise OverflowedError
        else:
            self._tensor.write_merged(merged, scale, span, out)


class NumbaCollector:
    """Counts and collects for all brackets in one pass."""

    def __init__(self, search: RankSearch) -> None:
        """Begin a search."""
        self._search = search.fresh()
        self._pending = [_PendingValues(row) for row in self._search.brackets]
        most = max(map(len, search.brackets))
        # Nothing is between infinity and minus infinity.
        edges = np.full((len(search.brackets), most, 2), (np.inf, -np.inf))
        for of_model, brackets in zip(edges, search.brackets, strict=True):
            for pair, bracket in zip(of_model, brackets, strict=False):
                pair[:] = bracket.low, bracket.high
        self._edges: Array = edges.astype(np.float32)
        self._top: Array = np.array(self._search.top, dtype=np.float32)
        self._inside: Array = np.empty((len(search.brackets), 0), dtype=np.float32)

    def add(self, tau: Array, exponent: Array, scoring: Scoring | None) -> None:
        """Take in the magnitudes of (n, m) task vectors, or their scores."""
        n, m = tau.shape
        if self._inside.shape[1] < m:
            self._inside = np.empty((n, m), dtype=np.float32)
        counts = np.zeros((*self._edges.shape[:2], 3), dtype=np.int64)
        kept = np.zeros(n, dtype=np.int64)
        found = self._edges, counts, self._inside, kept, self._top
        if scoring is None:
            numba_loops.collect_magnitudes(tau, *found)
        else:
            tau, extents = _in_unit(tau, scoring.unit), _rows(scoring.extents)
            numba_loops.collect_scores(tau, exponent, extents, *found)
        for pending, of_model, inside, count in zip(
            self._pending, counts.tolist(), self._inside, kept.tolist(), strict=True
        ):
            pending.add(of_model, inside[:count])

    def result(self) -> RankSearch:
        """What was seen."""
        for pending in self._pending:
            pending.assign()
        self._search.top = self._top.tolist()
        return self._search


@dataclass
class _PendingValues:
    """Values of one model that lie inside any of its brackets, not yet assigned."""

    brackets: list[Bracket]
    values: list[Any] = field(default_factory=list)
    count: int = 0

    def add(self, counts: list[list[int]], values: Array) -> None:
        """Take in the counts of each bracket, and the values inside any of them."""
        for bracket, (below, at_low, at_high) in zip(
            self.brackets, counts, strict=False
        ):
            bracket.below += below
            bracket.at_low += at_low
            bracket.at_high += at_high if bracket.low < bracket.high else 0
        self.values.append(values.copy())
        self.count += len(values)
        if self.count > _PENDING:
            self.assign()

    def assign(self) -> None:
        """Give every bracket the values that lie inside it."""
        if not self.count:
            return
        values = np.concatenate(self.values)
        self.values, self.count = [], 0
        for bracket in self.brackets:
            inside = values[(values > bracket.low) & (values < bracket.high)]
            bracket.inside.append(torch.from_numpy(inside))
