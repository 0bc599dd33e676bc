"""Tiles of tensors for compiled loops: task vectors read, merged values written.

A tile is a piece that stays in the processor's first-level cache. Tensors are arrays of
float32, or of the bits of bfloat16 as uint16: the first half of those of a float32.
"""

# numba has no annotations.
# mypy: disable-error-code="no-untyped-call,no-untyped-def,misc,call-arg,attr-defined"

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from mergekit_pcb.kernel.numba_compile import compiled

TILE = 2048
# Loops may work on whole vectors beyond the end of a tile.
ROOM = TILE + 64

_ZERO, _NO_SHARE = np.float32(0), np.float32(1e-12)
_LARGEST = np.finfo(np.float32).max
_LARGEST_BITS, _ALL_BUT_SIGN = np.int32(0x7F7FFFFF), np.int32(0x7FFFFFFF)
_HALF, _ODD, _MIDDLE = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)
_HALF_NAN, _MINUS_ZERO = np.uint32(0x7FC0), np.uint32(0x80000000)

Array = Any
"""A numpy array whose rows are contiguous; of float32 unless said otherwise."""


class Block(NamedTuple):
    """Coordinates to work on.

    Attributes:
        inputs: (n + 1,) int64 addresses of flat tensors: the models, then the base.
        like: an array of their dtype.
        start, stop: where in them the coordinates are.
    """

    inputs: Array
    like: Array
    start: int
    stop: int


@intrinsic
def _pointer(context, address, like):
    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(signature.return_type)
        return builder.inttoptr(arguments[0], kind)

    return types.CPointer(like.dtype)(address, like), generate


@compiled
def part(address: int, like: Array, start: int, size: int) -> Array:
    """A piece of the contiguous array at an address, of the dtype of another.

    So a loop takes any number of models without being compiled for it.
    """
    return numba.carray(_pointer(address, like), start + size)[start:]


@compiled
def subtract(model: Array, base: Array, unit: np.float32, out: Array) -> None:
    """Task vector of a tile, times a power of two."""
    for j in range(out.size):
        out[j] = (_float(model[j]) - _float(base[j])) * unit


@compiled
def sum_models(tau: Array, start: int, total: Array) -> None:
    """`formula.sum_models` of a tile of (n, ...) task vectors, cut if it overflows."""
    for i in range(len(tau)):
        tile = tau[i, start : start + total.size]
        if i == 0:
            for j in range(total.size):
                total[j] = tile[j]
        else:
            for j in range(total.size):
                total[j] += tile[j]
    bits, largest = total.view(np.int32), np.int32(0)
    for j in range(total.size):
        largest = max(largest, np.int32(bits[j] & _ALL_BUT_SIGN))
    if largest > _LARGEST_BITS:
        for j in range(total.size):
            finite = _ZERO if total[j] != total[j] else total[j]
            total[j] = min(max(finite, -_LARGEST), _LARGEST)


@compiled
def minus_zeros(base: Array, mask: Array) -> bool:
    """Whether there is a -0 in a tile; int32 ``mask`` is -1 there, else 0."""
    found = np.int32(0)
    for j in range(base.size):
        mask[j] = -np.int32(np.float32(_float(base[j])).view(np.uint32) == _MINUS_ZERO)
        found |= mask[j]
    return bool(found != 0)


@compiled
def write(
    merged: Array,
    shares: Array,
    unit: np.float32,
    scale: np.float32,
    base: Array,
    out: Array,
) -> bool:
    """Base + lambda * merged task vector of a tile; whether all are finite.

    The quotient of `formula.weighted_mean`, and `TaskVectors.write_merged`.

    Args:
        merged: (m,) sums over models, and then divided and scaled.
        shares: sums of the shares.
        unit: what task values are multiplied by to undo the unit of the scoring.
        scale: lambda.
        base: (m,) of the dtype of the result.
        out: (m,) gets the result.
    """
    for j in range(out.size):
        merged[j] = merged[j] / max(shares[j], _NO_SHARE) * unit * scale
    largest = np.int32(0)
    for j in range(out.size):
        out[j] = _rounded(merged[j] + _float(base[j]), out)
        largest = max(
            largest, np.float32(_float(out[j])).view(np.int32) & _ALL_BUT_SIGN
        )
    return bool(largest <= _LARGEST_BITS)


def _rounded(value: np.float32, like: Array) -> Any:
    raise NotImplementedError("numba puts `_as_stored` here")


@overload(_rounded, inline="always")
def _as_stored(value, like):
    if like.dtype != types.uint16:
        return lambda value, like: value

    def to_bfloat16(value, like):
        bits = np.float32(value).view(np.uint32)
        # To the nearest, and to even in the middle.
        odd = np.uint32((bits >> _HALF) & _ODD)
        nearest = np.uint32(np.uint32(bits + _MIDDLE + odd) >> _HALF)
        return nearest if value == value else _HALF_NAN

    return to_bfloat16


def _float(x: Any) -> np.float32:
    raise NotImplementedError("numba puts `_as_float` here")


@overload(_float, inline="always")
def _as_float(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << _HALF).view(np.float32)
    return lambda x: x
