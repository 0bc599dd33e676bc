"""Compiled loops over task vectors that are in memory at once: all scores, projections.

The results are those of `formula.InMemory` and `torch_backend`, bit for bit.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import numpy as np

from mergekit_pcb.kernel.numba_compile import compiled
from mergekit_pcb.kernel.numba_scores import Screen, Shares, contribute, scores
from mergekit_pcb.kernel.numba_tiles import (
    ROOM,
    Array,
    Block,
    part,
    subtract,
    sum_models,
)

# Sums in float64 are made of sums of tiles of so many values, and these of lanes: in
# the order of `torch_backend`.
_TILE, _LANES = 1024, 8

_NO_SHARE, _ONE = np.float32(1e-12), np.float32(1)


@compiled
def load(block: Block, tau: Array) -> None:
    """(n, m) task vectors of a block."""
    base, models, start, stop = block
    for i in range(len(models)):
        model = part(models[i], base, start, stop - start)
        subtract(model, base[start:stop], _ONE, tau[i])


@compiled
def all_scores(tau: Array, screen: Screen, b: Array) -> None:
    """(n, m) scores of (n, m) task vectors in the unit of the scoring."""
    n, m = tau.shape
    memory = np.empty((2, ROOM), dtype=np.float32)
    mask, indices = np.empty(ROOM, dtype=np.int32), np.empty(ROOM, dtype=np.int32)
    for start in range(0, m, _TILE):
        here = slice(start, min(start + _TILE, m))
        total = memory[0, : here.stop - start]
        sum_models(tau, start, total)
        for i in range(n):
            scores(
                tau[i, here],
                total,
                screen.exponent,
                screen.extents[i],
                b[i, here],
                memory[1],
                mask,
                indices,
            )


@compiled
def project(
    tau: Array, screen: Screen, shares: Shares, parts: Array, kept: Array
) -> None:
    """Sums of c_i times sum_j ``parts``_j tau_j, see `projection.projections`.

    Args:
        tau: (n, m) task vectors in the unit of the scoring.
        screen: how they are scored.
        shares: what scores become, with weights of 1.
        parts: (n,) float64.
        kept: (n,) float64 the sums, which are added to it.
    """
    n, m = tau.shape
    memory = np.empty((n + 5, _TILE), dtype=np.float32)
    mask, indices = np.empty(ROOM, dtype=np.int32), np.empty(ROOM, dtype=np.int32)
    wanted = np.zeros(_TILE)
    for start in range(0, m, _TILE):
        size = min(_TILE, m - start)
        total, b, v = memory[n, :size], memory[n + 1, :size], memory[n + 2]
        s, sums = memory[n + 3], memory[n + 4]
        sum_models(tau, start, total)
        for i in range(n):
            tile, extent = tau[i, start : start + size], screen.extents[i]
            scores(tile, total, screen.exponent, extent, b, v, mask, indices)
            contribute(b, v, shares.cut[i], shares.equal[i], s, memory[i])
            for j in range(size):
                sums[j] = s[j] if i == 0 else sums[j] + s[j]
                product = np.float64(tile[j]) * parts[i]
                wanted[j] = product if i == 0 else wanted[j] + product
        for i in range(n):
            for j in range(size):
                memory[i, j] /= max(sums[j], _NO_SHARE)
            kept[i] += _sum_of_products(memory[i, :size], wanted)


@compiled
def squares(tau: Array, found: Array) -> None:
    """Sums of the squares of (n, m) task vectors, added to (n,) float64."""
    n, m = tau.shape
    wide = np.zeros(_TILE)
    for start in range(0, m, _TILE):
        for i in range(n):
            tile = tau[i, start : start + _TILE]
            for j in range(tile.size):
                wide[j] = tile[j]
            found[i] += _sum_of_products(tile, wide)


@compiled
def _sum_of_products(few: Array, others: Array) -> float:
    """Of a tile of float32 and one of float64.

    The compiler may not change the order, and one after the other would be slow.
    """
    lanes = np.zeros(_LANES)
    whole = few.size - few.size % _LANES
    for j in range(0, whole, _LANES):
        for lane in range(_LANES):
            lanes[lane] += np.float64(few[j + lane]) * others[j + lane]
    for j in range(whole, few.size):
        lanes[j - whole] += np.float64(few[j]) * others[j]
    total = 0.0
    for lane in range(_LANES):
        total += lanes[lane]
    return total
