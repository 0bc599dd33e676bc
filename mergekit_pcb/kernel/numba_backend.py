"""Sweeps over a tensor by compiled loops, for `inter: raw` and float32 on a CPU.

The functions are those of `torch_backend`, with the same results bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mergekit_pcb.kernel import numba_loops, numba_memory, numba_small
from mergekit_pcb.kernel.collectors import RankSearch
from mergekit_pcb.kernel.domain import ModelStatistics, Options, Scoring
from mergekit_pcb.kernel.errors import OverflowedError
from mergekit_pcb.kernel.formula import exponent_of
from mergekit_pcb.kernel.numba_collector import NumbaCollector, widest_gap
from mergekit_pcb.kernel.numba_loops import VECTOR
from mergekit_pcb.kernel.numba_scores import LEAST_SCREENED, Screen, Shares
from mergekit_pcb.kernel.numba_tiles import TILE, Array, Block
from mergekit_pcb.kernel.order_statistics import require_finite
from mergekit_pcb.kernel.sampling import sample_coordinates
from mergekit_pcb.kernel.survivors import KeptSurvivors, Survivors
from mergekit_pcb.kernel.task_vectors import (
    TaskVectors,
    all_finite,
    one_torch_thread,
)

# Task values in a block: it stays in the last-level cache, and the few calls that it
# needs do not matter.
BLOCK = 1 << 18
# Coordinates of a sample to score at a time: whole tiles.
_PIECE = numba_memory.TILE << 3
# Compiled loops read bfloat16 as its bits.
_LIKE = {
    torch.bfloat16: np.empty(0, dtype=np.uint16),
    torch.float32: np.empty(0, dtype=np.float32),
}

ScaleOf = Callable[[Sequence[float]], float]


def block_size(device: torch.device) -> int:
    """Task values to work on at a time."""
    return BLOCK


def merge_small(
    tensor: TaskVectors,
    density: Sequence[float],
    weight: Sequence[float],
    scale: float | ScaleOf,
    options: Options,
) -> torch.Tensor:
    """Merge a tensor that is its own domain, as `merge.merge_one_tensor`."""
    if not _is_read_directly(tensor):
        with one_torch_thread():
            *models, base = (part.float().contiguous() for part in tensor.inputs)
            wide = TaskVectors(base, models)
            merged = merge_small(wide, density, weight, scale, options)
            out = tensor.empty_output().copy_(merged)
            if not all_finite(out):
                raise OverflowedError
        return out
    out = tensor.empty_output()
    n, size = len(density), tensor.size
    found = np.empty((3, n, size), dtype=np.float32)
    cut = np.empty((n, 2), dtype=np.float32)
    inputs = _addresses([*tensor.inputs, out])
    like = _LIKE[out.dtype]
    unit = numba_small.statistics(
        inputs, like, np.array(density, dtype=float), options.clamp, found, cut
    )
    if math.isnan(unit):
        require_finite(np.abs(found[0]).max(axis=1).tolist())
    if callable(scale):
        drawn = sample_coordinates(size, n)
        sample = found if drawn is None else found.take(drawn.numpy(), axis=2)
        kept = np.empty(n)
        numba_small.projections(sample, cut, unit, kept)
        scale = scale(kept.tolist())
    weights = np.array(weight, dtype=float)
    if not numba_small.merge(inputs, like, found, cut, weights, unit, float(scale)):
        raise OverflowedError
    return out


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


def scores(tau: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    """(n, m) scores of (n, m) task vectors, as `torch_backend`."""
    pieces = [b for _, b, _ in _scored(tau.numpy(), scoring)]
    return torch.from_numpy(np.concatenate(pieces, axis=1))


def squares(tau: torch.Tensor) -> Array:
    """Sums of the squares of (n, m) task vectors, as `torch_backend`."""
    found = np.zeros(len(tau))
    numba_memory.squares(tau.numpy(), found)
    return found


def project(
    tau: torch.Tensor, statistics: Sequence[ModelStatistics], inter: str, parts: Array
) -> Array:
    """Sums of contributions times task vectors, as `torch_backend`."""
    scoring = Scoring.of_statistics(statistics, inter)
    cut = _shares(statistics, [], scoring.unit, 1.0).cut
    kept = np.zeros(len(tau))
    for piece, b, v in _scored(tau.numpy(), scoring):
        numba_memory.project(piece, b, v, cut, parts / scoring.unit, kept)
    return kept / scoring.unit


def _scored(tau: Array, scoring: Scoring) -> Iterator[tuple[Array, Array, Array]]:
    """Task vectors in the unit of the scoring, scores, and clamped task values.

    Each (n, m), piece by piece.
    """
    _, exponent, extents, _ = _screen(scoring, [])
    for start in range(0, tau.shape[1], _PIECE):
        piece = np.ascontiguousarray(tau[:, start : start + _PIECE])
        if scoring.unit != 1:
            piece = piece * np.float32(scoring.unit)
        b, v = np.empty((2, *piece.shape), dtype=np.float32)
        numba_memory.all_scores(piece, exponent, extents, b, v)
        yield piece, b, v


def _shares(
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    unit: float,
    scale: float,
) -> Shares:
    """What scores become, as arrays."""
    cut = [(m.threshold, m.top - m.threshold) for m in statistics]
    with np.errstate(over="ignore"):
        return Shares(
            _rows(cut), _rows(weight), np.float32(1 / unit), np.float32(scale)
        )


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


def _is_read_directly(tensor: TaskVectors) -> bool:
    """Whether compiled loops read the inputs themselves: bfloat16 or float32."""
    dtype = tensor.inputs[0].dtype
    return dtype in _LIKE and all(
        part.dtype == dtype and part.is_contiguous() for part in tensor.inputs
    )


def _addresses(tensors: Sequence[torch.Tensor]) -> Array:
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


class _Inputs:
    """Where compiled loops find base and models.

    Those that they do not read directly are converted block by block.
    """

    def __init__(self, tensor: TaskVectors) -> None:
        self._inputs = tensor.inputs
        self.are_read_directly = _is_read_directly(tensor)
        self._addresses = _addresses(self._inputs)
        self._memory = torch.empty(0)

    def at(self, span: slice) -> Block:
        """The coordinates at a slice; the next call may overwrite what is converted."""
        if self.are_read_directly:
            like = _LIKE[self._inputs[0].dtype]
            return Block(self._addresses, like, span.start, span.stop)
        rows, count = len(self._inputs), span.stop - span.start
        if self._memory.numel() < rows * count:
            self._memory = torch.empty(rows * count)
        memory = self._memory[: rows * count].view(rows, count)
        for row, part in zip(memory, self._inputs, strict=True):
            row.copy_(part[span])
        return Block(_addresses(list(memory)), _LIKE[torch.float32], 0, count)


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
            finite = numba_loops.merge(block, found, shares, out.data_ptr())
        else:
            merged = torch.empty(block.stop)
            numba_loops.merge(block, found, shares, merged.data_ptr())
            finite = all_finite(out[span].copy_(merged))
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
