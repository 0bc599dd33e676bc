"""Compiled loops over a whole tensor that is small: from its inputs to the result.

What Python does between loops takes longer than they do for most tensors of a model,
such as norms. So here all steps of `formula` are three calls, and what `formula` and
`domain` compute of single numbers is compiled from the same source.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import numpy as np

from mergekit_pcb.kernel import domain, formula
from mergekit_pcb.kernel.numba_collect import select
from mergekit_pcb.kernel.numba_compile import compiled
from mergekit_pcb.kernel.numba_memory import all_scores, project, squares
from mergekit_pcb.kernel.numba_scores import contribute
from mergekit_pcb.kernel.numba_tiles import TILE, Array, part, subtract, write

_MINUS_ZERO, _ZERO, _ONE = np.float32(-0.0), np.float32(0), np.float32(1)

_clamp_ranks = compiled(formula.clamp_ranks)
_threshold_rank = compiled(formula.threshold_rank)
_exponent_of = compiled(formula.exponent_of)
_extent_of = compiled(domain.extent_of)
_unit_of = compiled(domain.unit_of)


@compiled
def statistics(
    inputs: Array, like: Array, density: Array, clamp: float, found: Array, cut: Array
) -> float:
    """Scores and thresholds: `formula.model_statistics`.

    Args:
        inputs: (n + 1,) int64 addresses of the models and the base.
        like: an array of their dtype.
        density: (n,) float64.
        clamp: see `domain.Options`.
        found: (3, n, m) gets task vectors in the unit of the scoring, scores, and
            clamped task values.
        cut: (n, 2) gets what scores are reduced by, see `numba_scores.Shares`.

    Returns:
        The unit of the scoring, see `domain.Scoring`; NaN if an input is not finite.
    """
    tau, b, v = found[0], found[1], found[2]
    n, m = tau.shape
    base = part(inputs[n], like, 0, m)
    memory = np.empty(m, dtype=np.int32)
    first, last = _clamp_ranks(m, clamp)
    limits = np.empty((n, 2))
    for i in range(n):
        subtract(part(inputs[i], like, 0, m), base, _ONE, tau[i])
        for j in range(m):
            b[i, j] = abs(tau[i, j])
        low, high, top = select(b[i], first, last, memory)
        if not top < np.inf:
            return np.nan
        limits[i, 0], limits[i, 1] = low, high
    unit = _unit_of(limits[:, 1].max())
    extents = np.empty((n, 4), dtype=np.float32)
    for i in range(n):
        extent = _extent_of(limits[i, 0] * unit, limits[i, 1] * unit)
        for k in range(4):
            extents[i, k] = extent[k]
        if unit != 1:
            for j in range(m):
                tau[i, j] *= np.float32(unit)
    exponent = np.array(_exponent_of(n)).astype(np.float32)
    all_scores(tau, exponent, extents, b, v)
    for i in range(n):
        rank = _threshold_rank(m, density[i])
        threshold, _, top = select(b[i], rank, rank, memory)
        # As `domain.ModelStatistics.of`.
        cut[i, 0] = threshold + _ZERO if limits[i, 1] else np.inf
        cut[i, 1] = top - np.float64(threshold) if limits[i, 1] else -np.inf
    return float(unit)


@compiled
def projections(found: Array, cut: Array, unit: float, kept: Array) -> None:
    """`projection.projections`.

    Args:
        found: (3, n, m) as `statistics` left it, or a sample of the coordinates.
        cut: (n, 2) as `statistics` left it.
        unit: of the scoring.
        kept: (n,) float64 gets the projections.
    """
    tau, b, v = found[0], found[1], found[2]
    parts = np.zeros(len(kept))
    squares(tau, parts)
    moved = max(np.int64((parts > 0).sum()), np.int64(1))
    for i in range(len(kept)):
        parts[i] = 1 / (parts[i] / unit / unit) / moved / unit if parts[i] > 0 else 0
        kept[i] = 0
    project(tau, b, v, cut, parts, kept)
    for i in range(len(kept)):
        kept[i] /= unit


@compiled
def merge(
    inputs: Array,
    like: Array,
    found: Array,
    cut: Array,
    weight: Array,
    unit: float,
    scale: float,
) -> bool:
    """Base + lambda * merged task vector.

    The end of `formula.merge_block`: `drop_and_rescale_` and `weighted_mean`.

    Args:
        inputs: (n + 2,) int64 addresses of models, base, and result.
        like: an array of their dtype.
        found: (3, n, m) as `statistics` left it.
        cut: (n, 2) as `statistics` left it.
        weight: (n,) float64.
        unit: of the scoring.
        scale: lambda.

    Returns:
        Whether the result is finite.
    """
    _, n, m = found.shape
    memory = np.empty((4, TILE), dtype=np.float32)
    merged, shares, s, share = memory[0], memory[1], memory[2], memory[3]
    finite, back = True, np.float32(1 / unit)
    for start in range(0, m, TILE):
        here = slice(start, min(start + TILE, m))
        size = here.stop - start
        merged[:size] = _MINUS_ZERO
        shares[:size] = 0
        for i in range(n):
            b, v = found[1, i, here], found[2, i, here]
            contribute(b, v, cut[i], np.float32(weight[i]), s, share)
            for j in range(size):
                shares[j] += s[j]
                merged[j] += share[j]
        base = part(inputs[n], like, start, size)
        out = part(inputs[n + 1], like, start, size)
        finite &= write(merged, shares, back, np.float32(scale), base, out)
    return finite
