"""Compiled scores of a tile, as `formula.scores`, and a cheap bound on them.

The same operations in the same order give the same bits: no factor is moved, and no
product is fused with a sum. Only the bound, of which nothing but a comparison is used,
goes its own way.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mergekit_pcb.kernel import exp2_tanh
from mergekit_pcb.kernel.formula import LEAST_EXPONENT
from mergekit_pcb.kernel.numba_compact import compact
from mergekit_pcb.kernel.numba_compile import compiled
from mergekit_pcb.kernel.numba_tiles import Array

# A model is not screened if its range, or what its scores are compared with, is below:
# numbers that are not normal round by more than the margin.
LEAST_SCREENED = 2.0**-100
# What the cut is lowered by, since bound and score are rounded differently.
_MARGIN = np.float32(1 - 2.0**-8)

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
_LEAST = np.float32(LEAST_EXPONENT)
_ALL_BUT_SIGN = np.int32(0x7FFFFFFF)
_ROUND, _MANTISSA = exp2_tanh.ROUND, exp2_tanh.MANTISSA
_UNIT_EXPONENT, _BIAS = np.float32(1 << 23), np.float32(127 << 23)
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = exp2_tanh.EXP2
_T0, _T1, _T2, _T3, _T4 = exp2_tanh.TANH
_DIFFERS, _IS_ONE = exp2_tanh.TANH_DIFFERS, exp2_tanh.TANH_IS_ONE
_DIFFERS_BITS = np.int32(_DIFFERS.view(np.int32))
_IS_STEEP, _TWICE_LOG2_E = exp2_tanh.TANH_IS_STEEP, exp2_tanh.TWICE_LOG2_E


class Screen(NamedTuple):
    """How models are scored, and which scores are of interest.

    Attributes:
        unit, exponent: see `domain.Scoring` and `formula.exponent_of`.
        extents: (n, 4) low, high, floor and spread of each model.
        cuts: (n,) what a score must reach; minus infinity: all are of interest.
    """

    unit: np.float32
    exponent: Array
    extents: Array
    cuts: Array


class Shares(NamedTuple):
    """What scores become, and how the result is scaled.

    Attributes:
        cut: (n, 2) threshold, and largest score minus threshold, of each model.
        weight: (n,) of each model.
        unit: what task values are multiplied by to undo the unit of the scoring.
        scale: lambda.
    """

    cut: Array
    weight: Array
    unit: np.float32
    scale: np.float32


@compiled
def scores(
    tau: Array,
    total: Array,
    exponent: Array,
    extent: Array,
    b: Array,
    v: Array,
    mask: Array,
    indices: Array,
) -> None:
    """Scores b and clamped task values v of some task values of one model.

    `formula.clamp_magnitudes`, and `formula.scores`: tanh(tau * total) exp(n u^2).

    Args:
        tau: (m,) task values.
        total: (m,) sums over models there.
        exponent: see `formula.exponent_of`.
        extent: low, high, floor, spread of the model.
        b: (m,) memory for scores.
        v: (m,) memory for clamped task values.
        mask: memory for `compact`.
        indices: the same.
    """
    low, high, floor, spread = extent
    steepness, shift = exponent
    for j in range(b.size):
        b[j] = tau[j] * total[j]
    bits, largest = b.view(np.int32), np.int32(0)
    for j in range(b.size):
        largest = max(largest, np.int32(bits[j] & _ALL_BUT_SIGN))
    if largest >= _DIFFERS_BITS:
        for j in range(b.size):
            mask[j] = -np.int32((bits[j] & _ALL_BUT_SIGN) >= _DIFFERS_BITS)
        count = compact(mask, b.size, indices)
        for k in range(count):
            v[k] = b[indices[k]]
        # Whole vectors: what is left over would be done one by one.
        _all_tanh(v[: (count + 63) // 64 * 64])
        for k in range(count):
            b[indices[k]] = v[k]
    for j in range(b.size):
        magnitude = max(min(abs(tau[j]), high), low)
        u = (magnitude - floor) / spread
        b[j] *= _exp2(max(u * u * steepness - shift, _LEAST))
        sign = np.float32(tau[j] > 0) - np.float32(tau[j] < 0)
        v[j] = sign * magnitude


@compiled
def screen_tile(
    tau: Array,
    total: Array,
    exponent: Array,
    extent: Array,
    cut: np.float32,
    mask: Array,
) -> None:
    """Set (m,) int32 ``mask`` to -1, but to 0 where a score is certainly below ``cut``.

    tanh(p) is at most p and at most 1; 2^(k + f) is at most 2^k (1 + f), which is what
    the bits of k + f are as a number, and at most 6 % more.
    """
    low, high, floor, spread = extent
    steepness, shift = exponent
    inverse, cut = _ONE / spread, cut * _MARGIN
    for j in range(tau.size):
        p = tau[j] * total[j]
        p = _ONE if p > _ONE else p
        u = (max(min(abs(tau[j]), high), low) - floor) * inverse
        y = max(u * u * steepness - shift, _LEAST)
        power = np.int32(y * _UNIT_EXPONENT + _BIAS).view(np.float32)
        mask[j] = -np.int32(not (p * power <= cut))


@compiled
def contribute(
    b: Array, v: Array, cut: Array, weight: np.float32, s: Array, contribution: Array
) -> None:
    """What scores become: shares s, and what the model then adds to the sum.

    `formula.drop_and_rescale_`, and the products of `formula.weighted_mean`.

    Args:
        b: (m,) scores.
        v: (m,) clamped task values.
        cut: of this model, see `Shares`.
        weight: the same.
        s: memory for the shares.
        contribution: memory for shares times task values times weight.
    """
    threshold, span = cut
    for j in range(b.size):
        s[j] = max(b[j] - threshold, _ZERO) / span
    # All scores that reach the threshold are equal.
    if span <= 0:
        for j in range(b.size):
            s[j] = np.float32((b[j] >= threshold) & (v[j] != 0))
    for j in range(b.size):
        contribution[j] = v[j] * s[j] * weight


@compiled
def _exp2(x: Any) -> Any:
    """2^x, as `exp2_tanh.exp2_`."""
    whole = np.float32(x + _ROUND)
    x = x - (whole - _ROUND)
    result = (((((_E6 * x + _E5) * x + _E4) * x + _E3) * x + _E2) * x + _E1) * x + _E0
    power = np.int32(whole.view(np.int32) << _MANTISSA)
    return np.int32(np.float32(result).view(np.int32) + power).view(np.float32)


@compiled
def _all_tanh(x: Array) -> None:
    for j in range(x.size):
        x[j] = _tanh(x[j])


@compiled
def _tanh(x: Any) -> Any:
    """The tanh, as `exp2_tanh.tanh_`, where it differs from x."""
    square = x * x
    flat = (((_T4 * square + _T3) * square + _T2) * square + _T1) * square + _T0
    flat = flat * square * x + x
    steep = _ONE - _TWO / (_exp2(min(abs(x), _IS_ONE) * _TWICE_LOG2_E) + _ONE)
    # Both are computed, without a branch: so a vector of them is computed at once.
    return flat if abs(x) < _IS_STEEP else -steep if x < 0 else steep
