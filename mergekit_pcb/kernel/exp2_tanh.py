"""2^x and tanh that give the same bits in whatever pieces and loops they are computed.

Those of torch and numpy depend on the processor, and on their versions. These, for
float32 on a CPU, are made of nothing but sums, products and quotients of two numbers,
each rounded as IEEE 754 says, so that the compiled ones of `numba_scores` can
repeat them exactly. They are wrong by less than two units in the last place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

LOG2_E = 1.4426950408889634

# Adding this rounds a float32 to a whole number, and leaves that in its last bits.
ROUND = np.float32(1.5 * 2**23)
MANTISSA = np.int32(23)
# 2^x for -1/2 <= x <= 1/2, from the constant up: interpolated at Chebyshev's points.
EXP2 = np.array(
    [1, 0.6931472, 0.2402265, 0.05550357, 0.009618083, 0.0013390863, 0.00015453163],
    dtype=np.float32,
)
# (tanh(x) - x) / x^3 for x^2 below 0.4, in powers of x^2.
TANH = np.array(
    [-0.33333328, 0.13332768, -0.053850595, 0.020995695, -0.006094555],
    dtype=np.float32,
)
# Below the first tanh(x) is x; above the second, exponentials are as exact; from the
# third on it is 1.
TANH_DIFFERS = np.float32(2.0**-12)
TANH_IS_STEEP = np.float32(0.625)
TANH_IS_ONE = np.float32(10)
TWICE_LOG2_E = np.float32(2 * LOG2_E)

# Values at a time: enough for a call to pay, and few enough for the processor's cache.
_AT_ONCE = 1 << 17

Array = Any


def exp2_(x: torch.Tensor) -> torch.Tensor:
    """2^x in place. In float32, x is between -126 and 127."""
    if x.device.type != "cpu":
        return x.exp2_()
    if x.dtype == torch.float32:
        for part, memory in _parts(x, 3):
            _exp2(part, *memory)
    else:
        np.exp2(x.numpy(), out=x.numpy())
    return x


def tanh_(x: torch.Tensor) -> torch.Tensor:
    """The tanh in place."""
    if x.device.type != "cpu":
        return x.tanh_()
    if x.dtype == torch.float32:
        for part, (magnitude,) in _parts(x, 1):
            np.abs(part, out=magnitude)
            where = np.flatnonzero(magnitude >= TANH_DIFFERS)
            if where.size:  # seldom, with task values and their sums
                part[where] = _tanh(part[where])
    else:
        np.tanh(x.numpy(), out=x.numpy())
    return x


def _parts(x: torch.Tensor, rows: int) -> Iterator[tuple[Array, Array]]:
    """Flat parts of a contiguous tensor, with some rows of memory like each."""
    values = x.view(-1).numpy()
    memory = np.empty((rows, min(_AT_ONCE, len(values))), dtype=values.dtype)
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        yield part, memory[:, : len(part)]


def _exp2(x: Array, whole: Array, power: Array, result: Array) -> None:
    np.add(x, ROUND, out=whole)
    np.left_shift(whole.view(np.int32), MANTISSA, out=power.view(np.int32))
    whole -= ROUND
    x -= whole
    _polynomial(EXP2, x, result)
    np.add(result.view(np.int32), power.view(np.int32), out=x.view(np.int32))


def _tanh(x: Array) -> Array:
    near = np.clip(x, -TANH_IS_STEEP, TANH_IS_STEEP)
    square = near * near
    flat = np.empty_like(x)
    _polynomial(TANH, square, flat)
    flat = flat * square * near + near
    exponential = np.minimum(np.abs(x), TANH_IS_ONE) * TWICE_LOG2_E
    _exp2(exponential, *np.empty((3, len(x)), dtype=np.float32))
    steep = np.float32(1) - np.float32(2) / (exponential + np.float32(1))
    return np.where(np.abs(x) < TANH_IS_STEEP, flat, np.copysign(steep, x))


def _polynomial(coefficients: Array, x: Array, out: Array) -> None:
    *others, highest = coefficients
    np.multiply(x, highest, out=out)
    for coefficient in others[:0:-1]:
        out += coefficient
        out *= x
    out += others[0]
