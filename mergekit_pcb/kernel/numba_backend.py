"""Sweeps over a tensor by compiled loops, for `inter: raw` and float32 on a CPU.

The functions are those of `torch_backend`, with the same results bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mergekit_pcb.kernel import numba_loops, numba_memory
from mergekit_pcb.kernel.collectors import RankSearch
from mergekit_pcb.kernel.domain import ModelStatistics, Scoring
from mergekit_pcb.kernel.formula import exponent_of
from mergekit_pcb.kernel.numba_collect import select
from mergekit_pcb.kernel.numba_collector import NumbaCollector, widest_gap
from mergekit_pcb.kernel.numba_loops import VECTOR
from mergekit_pcb.kernel.numba_scores import LEAST_SCREENED, Screen, Shares
from mergekit_pcb.kernel.numba_tiles import TILE, Array, Block
from mergekit_pcb.kernel.order_statistics import OverflowedError, require_finite
from mergekit_pcb.kernel.sampling import sample_coordinates
from mergekit_pcb.kernel.survivors import KeptSurvivors, Survivors
from mergekit_pcb.kernel.task_vectors import TaskVectors, bits_of

# Task values in a block: it stays in the last-level cache, and the few calls that it
# needs do not matter.
BLOCK = 1 << 18


def block_size(device: torch.device) -> int:
    """Task values to work on at a time."""
    return BLOCK


@dataclass(frozen=True)
class InMemory:
    """Task vectors of a tensor of one block as a domain, see `domain.Domain`."""

    tau: Array

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
            numba_memory.all_scores(tau, _screen(scoring, []), values)
        bits = np.array([[*row, self.size - 1] for row in ranks], dtype=np.int64)
        select(values.view(np.int32), bits)
        found = bits.astype(np.int32).view(np.float32).tolist()
        top = [row.pop() for row in found]
        require_finite(top)
        return found, top


def in_memory(tensor: TaskVectors) -> InMemory:
    """A tensor of one block as a domain."""
    tau = np.empty((len(tensor.models), tensor.size), dtype=np.float32)
    numba_memory.load(_Inputs(tensor).at(slice(0, tensor.size)), tau)
    return InMemory(tau)


def collect(
    tensor: TaskVectors,
    scoring: Scoring | None,
    search: RankSearch,
    spans: Iterator[slice],
    kept: KeptSurvivors | None = None,
) -> RankSearch:
    """What a search sees at some slices, as `torch_backend.collect`."""
    worker = _Worker(tensor)
    if scoring is None:
        gaps = [widest_gap(row) for row in search.brackets]
        collector = NumbaCollector(search, gaps)
        bits = _rows(gaps)
        # Less than the bits of any magnitude.
        bits = np.where(bits < 0, -1, bits.view(np.int32)).astype(np.int32)
        for span in spans:
            found = worker.magnitudes(span, bits)
            collector.add(found.b, found.counts, span.stop - span.start)
    else:
        screen = _screen(scoring, search.lowest())
        collector = NumbaCollector(search, [(-math.inf, cut) for cut in screen.cuts])
        for span in spans:
            found = worker.survivors(span, screen)
            collector.add(found.b, found.counts, span.stop - span.start)
            if kept is not None:
                kept.keep(span, found, VECTOR)
    return collector.result()


def merge(
    tensor: TaskVectors,
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    scale: float,
    inter: str,
    out: torch.Tensor,
    spans: Iterator[slice],
    kept: KeptSurvivors | None = None,
) -> None:
    """Merge a tensor at some slices, as `torch_backend.merge`."""
    scoring = Scoring.of_statistics(statistics, inter)
    screen = _screen(scoring, [m.threshold for m in statistics])
    shares = _shares(statistics, weight, scoring.unit, scale)
    worker = _Worker(tensor)
    for span in spans:
        found = kept.at(span, scoring, statistics) if kept else None
        worker.merge(span, found or worker.survivors(span, screen), shares, out)


def squares(tau: Any) -> Array:
    """Sums of the squares of (n, m) task vectors, as `torch_backend`."""
    found = np.zeros(len(tau))
    numba_memory.squares(np.asarray(tau), found)
    return found


def project(
    tau: Any, statistics: Sequence[ModelStatistics], inter: str, parts: Array
) -> Array:
    """Sums of contributions times task vectors, as `torch_backend`."""
    scoring = Scoring.of_statistics(statistics, inter)
    kept = np.zeros(len(tau))
    numba_memory.project(
        _in_unit(np.asarray(tau), scoring.unit),
        _screen(scoring, []),
        _shares(statistics, [1.0] * len(tau), scoring.unit, 1.0),
        parts / scoring.unit,
        kept,
    )
    return kept / scoring.unit


def _in_unit(tau: Array, unit: float) -> Array:
    """As `formula.in_unit`."""
    return tau if unit == 1 else tau * np.float32(unit)


def _shares(
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    unit: float,
    scale: float,
) -> Shares:
    """What scores become, as arrays."""
    cut = [
        (m.threshold, m.top - m.threshold, w)
        for m, w in zip(statistics, weight, strict=True)
    ]
    equal = np.array([m.has_equal_scores for m in statistics])
    with np.errstate(over="ignore"):
        return Shares(_rows(cut), equal, np.float32(1 / unit), np.float32(scale))


def _screen(scoring: Scoring, cuts: Sequence[float]) -> Screen:
    """Scores at or above the cuts survive, and all where the bound would not hold."""
    sound = [
        cut if min(cut, extent.spread) >= LEAST_SCREENED else -math.inf
        for cut, extent in zip(cuts, scoring.extents, strict=False)
    ]
    return Screen(
        np.float32(scoring.unit),
        np.array(exponent_of(len(scoring.extents)), dtype=np.float32),
        _rows(scoring.extents),
        _rows(sound),
    )


def _rows(rows: Sequence[Any]) -> Array:
    return np.array(rows, dtype=np.float32)


class _Inputs:
    """Where compiled loops find base and models.

    They read bfloat16 and float32 themselves. Others, and mixtures, are converted
    block by block.
    """

    def __init__(self, tensor: TaskVectors) -> None:
        self._inputs = tensor.inputs
        dtype = self._inputs[0].dtype
        self.are_read_directly = dtype in (torch.bfloat16, torch.float32) and all(
            part.dtype == dtype and part.is_contiguous() for part in self._inputs
        )
        if self.are_read_directly:
            self._base = array_of(self._inputs[-1])
            self._addresses = _addresses(self._inputs)
        else:
            self._memory = torch.empty(0)

    def at(self, span: slice) -> Block:
        """The coordinates at a slice; the next call may overwrite what is converted."""
        if self.are_read_directly:
            return Block(self._base, self._addresses, span.start, span.stop)
        rows, count = len(self._inputs), span.stop - span.start
        if self._memory.numel() < rows * count:
            self._memory = torch.empty(rows * count)
        memory = self._memory[: rows * count].view(rows, count)
        for row, part in zip(memory, self._inputs, strict=True):
            row.copy_(part[span])
        return Block(memory[-1].numpy(), _addresses(list(memory)), 0, count)


def array_of(flat: torch.Tensor) -> Array:
    """A tensor that compiled loops read directly, as a numpy array."""
    return bits_of(flat) if flat.dtype == torch.bfloat16 else flat.numpy()


def _addresses(inputs: Sequence[torch.Tensor]) -> Array:
    """Those of the models, which are followed by the base."""
    return np.array([model.data_ptr() for model in inputs[:-1]], dtype=np.int64)


class _Worker:
    """Works on one block of a tensor after the other, in the same memory."""

    def __init__(self, tensor: TaskVectors) -> None:
        self._models = len(tensor.models)
        self._inputs = _Inputs(tensor)
        self._memory = _room(0, self._models)

    def magnitudes(self, span: slice, gaps: Array) -> Survivors:
        """Magnitudes outside the gaps, as the scores of what survives."""
        found = self._room(span)
        block = self._inputs.at(span)
        numba_loops.magnitudes(block, gaps, found.b, found.counts)
        return found

    def survivors(self, span: slice, screen: Screen) -> Survivors:
        """What survives at a slice; the next call overwrites it."""
        found = self._room(span)
        numba_loops.survivors(self._inputs.at(span), screen, found)
        return found

    def merge(
        self, span: slice, found: Survivors, shares: Shares, out: torch.Tensor
    ) -> None:
        """Write what survivors merge to into (d,) ``out`` at a slice."""
        block = self._inputs.at(span)
        if self._inputs.are_read_directly:
            finite = numba_loops.merge(block, found, shares, array_of(out))
        else:
            merged = np.empty(block.stop, dtype=np.float32)
            numba_loops.merge(block, found, shares, merged)
            written = out[span].copy_(torch.from_numpy(merged))
            finite = bool(written.isfinite().all())
        if not finite:
            raise OverflowedError

    def _room(self, span: slice) -> Survivors:
        size = span.stop - span.start
        shape = -(-size // TILE), self._models
        if len(self._memory.b) < self._models * size + VECTOR:
            self._memory = _room(size, self._models)
        elif self._memory.counts.shape != shape:
            counts = np.empty(shape, dtype=np.int32)
            self._memory = self._memory._replace(counts=counts)
        return self._memory


def _room(size: int, models: int) -> Survivors:
    count = models * size + VECTOR
    return Survivors(
        np.empty(count, dtype=np.uint16),
        np.empty(count, dtype=np.float32),
        np.empty(count, dtype=np.float32),
        np.empty((-(-size // TILE), models), dtype=np.int32),
    )
