"""Compiled loops over task vectors that are in memory at once: scores, projections.

The results are those of `formula.InMemory` and `torch_backend`, bit for bit.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import numpy as np

from mergekit_pcb.kernel.numba_compile import compiled
from mergekit_pcb.kernel.numba_scores import contribute, scores
from mergekit_pcb.kernel.numba_tiles import ROOM, Array, sum_models
from mergekit_pcb.kernel.torch_backend import SUM_LANES, SUM_TILE

TILE, _LANES = SUM_TILE, SUM_LANES

_NO_SHARE, _ONE = np.float32(1e-12), np.float32(1)


@compiled
def all_scores(tau: Array, exponent: Array, extents: Array, b: Array, v: Array) -> None:
    """Scores of task vectors: `formula.ranked_values`.

    Args:
        tau: (n, m) task vectors in the unit of the scoring.
        exponent: see `formula.exponent_of`.
        extents: (n, 4), see `domain.Extent`.
        b: (n, m) gets the scores.
        v: (n, m) gets the clamped task values.
    """
    n, m = tau.shape
    total = np.empty(TILE, dtype=np.float32)
    mask, indices = np.empty(ROOM, dtype=np.int32), np.empty(ROOM, dtype=np.int32)
    for start in range(0, m, TILE):
        here = slice(start, min(start + TILE, m))
        sums = total[: here.stop - start]
        sum_models(tau, start, sums)
        for i in range(n):
            of_model = b[i, here], v[i, here]
            scores(tau[i, here], sums, exponent, extents[i], *of_model, mask, indices)


@compiled
def squares(tau: Array, found: Array) -> None:
    """Sums of the squares of (n, m) task vectors, added to (n,) float64."""
    n, m = tau.shape
    wide = np.zeros(TILE)
    for start in range(0, m, TILE):
        for i in range(n):
            tile = tau[i, start : start + TILE]
            for j in range(tile.size):
                wide[j] = tile[j]
            found[i] += _sum_of_products(tile, wide)


@compiled
def project(
    tau: Array, b: Array, v: Array, cut: Array, parts: Array, kept: Array
) -> None:
    """Sums of `formula.contributions` c_i times sum_j ``parts``_j tau_j.

    Args:
        tau: (n, m) task vectors in the unit of the scoring.
        b: (n, m) their scores.
        v: (n, m) their clamped task values.
        cut: see `numba_scores.Shares`.
        parts: (n,) float64.
        kept: (n,) float64 the sums, which are added to it.
    """
    n, m = tau.shape
    memory = np.empty((n + 2, TILE), dtype=np.float32)
    s, sums, wanted = memory[n], memory[n + 1], np.zeros(TILE)
    for start in range(0, m, TILE):
        here = slice(start, min(start + TILE, m))
        size = here.stop - start
        for i in range(n):
            contribute(b[i, here], v[i, here], cut[i], _ONE, s, memory[i])
            for j in range(size):
                sums[j] = s[j] if i == 0 else sums[j] + s[j]
                product = np.float64(tau[i, start + j]) * parts[i]
                wanted[j] = product if i == 0 else wanted[j] + product
        for i in range(n):
            for j in range(size):
                memory[i, j] /= max(sums[j], _NO_SHARE)
            kept[i] += _sum_of_products(memory[i, :size], wanted)


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
