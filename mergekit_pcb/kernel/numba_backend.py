"""Sweeps by compiled loops, for `inter: raw` and float32: the extra ``fast``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mergekit_pcb.kernel import numba_loops
from mergekit_pcb.kernel.collectors import Net, Survey, require_finite
from mergekit_pcb.kernel.formula import (
    Cut,
    Extents,
    ModelStatistics,
    add_to_base,
    clamp_ranks,
    exponent_of,
    threshold_rank,
)
from mergekit_pcb.kernel.numba_loops import Array
from mergekit_pcb.kernel.sweeps import Measure, Merge, Scores, Setting
from mergekit_pcb.kernel.task_vectors import Share, TaskVectors

# Task values to work on at a time: what is done to them stays in the last-level cache,
# and the few calls that a block takes do not show.
BLOCK = 1 << 18


def survey(
    tensor: TaskVectors, measure: Measure, asked: Survey, share: Share
) -> Survey:
    """What there is to see of a measure in a share of a tensor."""
    observer = NumbaCollector(asked)
    bench = Bench(tensor, share.largest)
    for span in share.spans:
        tau = bench.load(span)
        if isinstance(measure, Scores):
            extents = measure.extents.table.numpy()
            observer.observe(numba_loops.see_scores, tau, bench.exponent, extents)
        else:
            observer.observe(numba_loops.see_magnitudes, tau)
    return observer.report()


def merge(tensor: TaskVectors, task: Merge, share: Share) -> None:
    """Merge a share of a tensor."""
    cut = task.cut.table.numpy()
    alike = np.zeros(len(cut), dtype=np.bool_)
    alike[list(task.cut.alike)] = True
    terms = Terms(task.extents.table.numpy(), cut, alike)
    bench = Bench(tensor, share.largest)
    for span in share.spans:
        bench.load(span)
        bench.merge(span, terms, task.scale, task.out)


def merge_whole(tensor: TaskVectors, setting: Setting) -> torch.Tensor:
    """Merge a tensor that is one block and its own domain."""
    assert setting.inter == "raw"
    n, d = len(tensor.models), tensor.size
    everything = slice(0, d)
    bench = Bench(tensor, d)
    tau = bench.load(everything)
    values = np.abs(tau)
    ends = _at_ranks(values, [[*clamp_ranks(d, setting.clamp), d - 1]] * n)
    require_finite([top for _, _, top in ends])
    extents = np.array(
        Extents.rows([(low, high) for low, high, _ in ends]), dtype=np.float32
    )
    numba_loops.all_scores(tau, bench.exponent, extents, values)
    found = _at_ranks(values, [[threshold_rank(d, r), d - 1] for r in setting.density])
    statistics = [
        ModelStatistics.of(low, high, threshold, top)
        for (low, high, _), (threshold, top) in zip(ends, found, strict=True)
    ]
    cut = np.array(Cut.rows(statistics, setting.weight), dtype=np.float32)
    alike = np.array([of_model.alike for of_model in statistics])
    out = tensor.output()
    bench.merge(everything, Terms(extents, cut, alike), setting.scale, out)
    return out


def _at_ranks(values: Array, ranks: Sequence[Sequence[int]]) -> list[list[float]]:
    """The values at each model's ranks, of (n, m) values, which are overwritten."""
    bits = np.array(ranks, dtype=np.int64)
    numba_loops.select(values.view(np.int32), bits)
    found: list[list[float]] = bits.astype(np.int32).view(np.float32).tolist()
    return found


class Terms(NamedTuple):
    """On what terms n models compete.

    Attributes:
        extents: (n, 4), of `Extents`.
        cut: (n, 3), of `Cut`.
        alike: (n,) bool, those whose scores are equal.
    """

    extents: Array
    cut: Array
    alike: Array


class Bench:
    """Loads and merges one block after the other, in the same memory.

    Attributes:
        exponent: what u^2 is multiplied and reduced by, see `formula.exponent_of`.
    """

    def __init__(self, tensor: TaskVectors, largest: int) -> None:
        """Make room for blocks of up to ``largest`` coordinates."""
        self.exponent: Array = np.array(exponent_of(len(tensor.models)), dtype="f4")
        self._tensor = tensor
        # Of halves: views of torch take longer to make than small blocks to load.
        halves = all(part.dtype == torch.bfloat16 for part in tensor.inputs)
        self._bits = [_bits(part) for part in tensor.inputs] if halves else []
        self._memory = tensor.memory(len(tensor.models) + 3, largest).view(-1)

    def load(self, span: slice) -> Array:
        """The (n, m) task vectors at a slice."""
        n, count = len(self._tensor.models), span.stop - span.start
        rows = self._memory[: (n + 3) * count].view(n + 3, count)
        self._rows, self._tau = rows, rows[:n].numpy()
        if self._tensor.base is None or not self._bits:
            self._tensor.between(span, rows[: n + 1])
        else:
            *models, base = [bits[span] for bits in self._bits]
            for model, task_vector in zip(models, self._tau, strict=True):
                numba_loops.subtract(model, base, task_vector)
        return self._tau

    def merge(self, span: slice, terms: Terms, scale: float, out: torch.Tensor) -> None:
        """Put base + lambda * merged task vector of what was loaded into its place."""
        base, out = self._tensor.base, out[span]
        *_, merged, memory = self._rows
        numba_loops.merge(self._tau, self.exponent, *terms, merged.numpy())
        if base is not None and self._bits:
            bits = self._bits[-1][span], _bits(out)
            numba_loops.add_to_base(merged.numpy(), np.float32(scale), *bits)
        else:
            part = None if base is None else base[span]
            add_to_base(merged, scale, part, out, memory)


def _bits(tensor: torch.Tensor) -> Array:
    """(m,) uint16 bits of bfloat16 numbers: the first half of those of a float32."""
    return tensor.view(torch.int16).numpy().view(np.uint16)


class NumbaCollector:
    """Counts and collects for all brackets in one pass."""

    def __init__(self, asked: Survey) -> None:
        """Take the questions."""
        self._seen = asked.fresh()
        self._nets = [Net(b, edges_counted=True) for b in self._seen.brackets]
        most = max(map(len, asked.brackets))
        # Nothing is between infinity and minus infinity.
        edges = np.full((len(self._nets), most, 2), (np.inf, -np.inf))
        for of_model, brackets in zip(edges, asked.brackets, strict=True):
            for pair, bracket in zip(of_model, brackets, strict=False):
                pair[:] = bracket.low, bracket.high
        self._edges: Array = edges.astype(np.float32)
        self._top: Array = np.array(self._seen.top, dtype=np.float32)
        self._inside: Array = np.empty((len(self._nets), 0), dtype=np.float32)

    def observe(self, see: Callable[..., None], tau: Array, *others: Array) -> None:
        """Take in what a loop sees in a block of (n, m) task vectors."""
        n, m = tau.shape
        if self._inside.shape[1] < m:
            self._inside = np.empty((n, m), dtype=np.float32)
        counts = np.zeros((*self._edges.shape[:2], 3), dtype=np.int64)
        kept = np.zeros(n, dtype=np.int64)
        see(tau, *others, self._edges, counts, self._inside, kept, self._top)
        for net, seen, inside, count in zip(
            self._nets, counts.tolist(), self._inside, kept.tolist(), strict=True
        ):
            for bracket, (below, at_low, at_high) in zip(
                net.brackets, seen, strict=False
            ):
                bracket.below += below
                bracket.at_low += at_low
                bracket.at_high += at_high if bracket.low < bracket.high else 0
            net.take(inside[:count].copy())

    def report(self) -> Survey:
        """What was seen."""
        for net in self._nets:
            net.settle()
        self._seen.top = self._top.tolist()
        return self._seen
