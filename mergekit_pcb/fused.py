"""The arithmetic of a block in compiled loops: what `mergekit_pcb.balancing` says.

Each loop does in one pass over the memory what takes a pass an operation there. The
same operations in the same order give the same bits: no factor is moved, and no
product is fused with a sum. Only the exponential and the tanh are numpy's, as there.

numba compiles a loop at its first use, for the processor it runs on, and keeps the
result on disk. Loops run without the interpreter's lock, so that threads do not wait
for each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch

from mergekit_pcb import balancing
from mergekit_pcb.balancing import Cut, Extents, Room, exp_, tanh_
from mergekit_pcb.survey import CPUObserver, Layer, Survey

if getattr(numba.config, "DISABLE_JIT", False):  # by NUMBA_DISABLE_JIT=1
    raise ImportError("interpreted, these loops would take hours")

_ZERO, _TINY = np.float32(0), np.float32(1e-12)
_LARGEST = np.finfo(np.float32).max

Array = Any
"""A contiguous numpy array; of float32 unless said otherwise."""


def _compiled(function: Callable[..., Any]) -> Any:
    # Division by zero is what it is to numpy and torch.
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiled(function, cache=True)
    except RuntimeError:  # there is no folder to keep anything in
        return compiled(function)


def subtract_base(
    models: Sequence[torch.Tensor], base: torch.Tensor | None, memory: torch.Tensor
) -> torch.Tensor:
    """Task vectors of a block, as by `balancing.subtract_base`."""
    if base is None or any(t.dtype != torch.bfloat16 for t in (base, *models)):
        return balancing.subtract_base(models, base, memory)
    tau, bits = memory[:-1], _bits(base)
    for task_vector, model in zip(tau.numpy(), models, strict=True):
        _subtract(_bits(model), bits, task_vector)
    return tau


def scores(tau: torch.Tensor, extents: Extents, inter: str, room: Room) -> torch.Tensor:
    """Scores b of a block, (n, m) float32, as by `balancing.scores`."""
    if inter != "raw":
        return balancing.scores(tau, extents, inter, room)
    exponent, agreement = room.u, room.b
    _prepare(
        tau.numpy(),
        extents.table.numpy(),
        np.float32(balancing.exponent_shift(len(tau))),
        exponent.numpy(),
        agreement.numpy(),
        room.sums[0].numpy(),
    )
    return tanh_(agreement).mul_(exp_(exponent))


def merge(
    tau: torch.Tensor, extents: Extents, cut: Cut, inter: str, room: Room
) -> torch.Tensor:
    """Merged task vector of a block, (m,) float32, as by `balancing.merge`."""
    b = scores(tau, extents, inter, room)
    alike = np.zeros(len(tau), dtype=np.bool_)
    alike[list(cut.alike)] = True
    _compete(
        tau.numpy(),
        b.numpy(),
        extents.table.numpy(),
        cut.table.numpy(),
        alike,
        *room.sums.numpy(),
    )
    return room.sums[0]


class FusedObserver(CPUObserver):
    """Counts and collects for all brackets in one pass."""

    def __init__(self, survey: Survey, size: int) -> None:
        """Take the questions; ``size`` values a model will be seen."""
        super().__init__(survey, size)
        most = max(len(net.brackets) for net in self.nets)
        # Nothing is between infinity and minus infinity.
        self._edges: Array = np.full((len(self.nets), most, 2), (np.inf, -np.inf))
        for of_model, net in zip(self._edges, self.nets, strict=True):
            for edges, bracket in zip(of_model, net.brackets, strict=False):
                edges[:] = bracket.low, bracket.high
        self._edges = self._edges.astype(np.float32)
        self._caught: Array = np.empty((len(self.nets), 0), dtype=np.float32)

    def catch(self, block: Array, layers: Sequence[Layer]) -> None:
        """Count what is below each bracket, and keep what is inside."""
        n, m = block.shape
        if self._caught.shape[1] <= m:
            self._caught = np.empty((n, m + 1), dtype=np.float32)
        mask = np.empty(-(-m // 8) * 8, dtype=np.uint8)
        below = np.zeros(self._edges.shape[:2], dtype=np.int64)
        counts = np.zeros(n, dtype=np.int64)
        _catch(block, self._edges, mask, below, counts, self._caught)
        for i, net in enumerate(self.nets):
            for bracket, seen in zip(net.brackets, below[i].tolist(), strict=False):
                bracket.below += seen
            net.take(self._caught[i, : counts[i]].copy())


def _bits(tensor: torch.Tensor) -> Array:
    """(m,) uint16 bits of bfloat16 numbers: the first half of those of a float32."""
    return tensor.view(torch.int16).numpy().view(np.uint16)


@_compiled
def _subtract(model: Array, base: Array, out: Array) -> None:
    for j in range(out.size):
        value = np.uint32(np.uint32(model[j]) << 16).view(np.float32)
        out[j] = value - np.uint32(np.uint32(base[j]) << 16).view(np.float32)


@_compiled
def _prepare(
    tau: Array,
    extents: Array,
    shift: np.float32,
    exponent: Array,
    agreement: Array,
    total: Array,
) -> None:
    """What the exponential and the tanh are taken of, both (n, m)."""
    n, m = tau.shape
    for j in range(m):
        total[j] = tau[0, j]
    for i in range(1, n):
        for j in range(m):
            total[j] += tau[i, j]
    for j in range(m):
        finite = _ZERO if total[j] != total[j] else total[j]
        total[j] = min(max(finite, -_LARGEST), _LARGEST)
    models = np.float32(n)
    for i in range(n):
        low, high, floor, spread = extents[i]
        for j in range(m):
            magnitude = max(min(abs(tau[i, j]), high), low)
            u = (magnitude - floor) / spread
            exponent[i, j] = u * u * models - shift
            agreement[i, j] = tau[i, j] * total[j]


@_compiled
def _compete(
    tau: Array,
    b: Array,
    extents: Array,
    cut: Array,
    alike: Array,
    merged: Array,
    total: Array,
) -> None:
    """Merged task vector from scores; ``alike`` is (n,) bool."""
    n, m = tau.shape
    for i in range(n):
        low, high, _, _ = extents[i]
        threshold, span, weight = cut[i]
        for j in range(m):
            magnitude = max(min(abs(tau[i, j]), high), low)
            sign = np.float32(tau[i, j] > 0) - np.float32(tau[i, j] < 0)
            s = max(b[i, j] - threshold, _ZERO) / span
            if alike[i]:
                s = np.float32((b[i, j] >= threshold) & (sign != 0))
            share = sign * magnitude * s * weight
            merged[j] = share if i == 0 else merged[j] + share
            total[j] = s if i == 0 else total[j] + s
    for j in range(m):
        merged[j] /= max(total[j], _TINY)


@_compiled
def _catch(
    block: Array, edges: Array, mask: Array, below: Array, counts: Array, caught: Array
) -> None:
    """Count and collect for (n, k, 2) edges of a block.

    ``mask`` is uint8 memory for the values of a model, in whole words of eight; what is
    below and what is kept is counted in (n, k) ``below`` and (n,) ``counts``, int64,
    and the latter kept in (n, m + 1) ``caught``.
    """
    n, m = block.shape
    for i in range(n):
        mask[:] = 0
        for k in range(edges.shape[1]):
            low, high = edges[i, k]
            under = np.uint32(0)
            for j in range(m):
                under = np.uint32(under + np.uint32(block[i, j] < low))
                mask[j] |= np.uint8((block[i, j] >= low) & (block[i, j] <= high))
            below[i, k] = under
        words = mask.view(np.uint64)
        count = 0
        for word in range(words.size):
            if words[word]:  # few hold anything
                for j in range(8 * word, min(8 * word + 8, m)):
                    caught[i, count] = block[i, j]
                    count += np.int64(mask[j])
        counts[i] = count
