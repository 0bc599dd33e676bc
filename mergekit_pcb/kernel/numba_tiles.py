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
_LARGEST_BITS, _INFINITY_BITS = np.int32(0x7F7FFFFF), np.uint32(0x7F800000)
_ALL_BUT_SIGN = np.int32(0x7FFFFFFF)
_HALF, _ODD, _MIDDLE = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)
_HALF_NAN, _HALF_INFINITY = np.uint32(0x7FC0), np.uint32(0x7F80)
_HALF_MINUS_ZERO, _MINUS_ZERO = np.uint16(0x8000), np.uint32(0x80000000)

Array = Any
"""A numpy array whose rows are contiguous; of float32 unless said otherwise."""


class Block(NamedTuple):
    """Coordinates to work on.

    Attributes:
        base: flat tensor.
        models: (n,) int64 addresses of tensors of the same dtype.
        start, stop: where in them the coordinates are.
    """

    base: Array
    models: Array
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
def task_vectors(
    models: Array, base: Array, start: int, unit: np.float32, tau: Array, total: Array
) -> None:
    """Task vectors of a tile, and their sum over models.

    Args:
        models: (n,) int64 addresses of tensors like the base.
        base: flat tensor.
        start: where the tile begins.
        unit: power of two that task values are multiplied by.
        tau: (n, ...) memory for the task vectors.
        total: (m,) their sum; as large as it can be where it overflows.
    """
    size = total.size
    here = base[start : start + size]
    for i in range(len(models)):
        subtract(part(models[i], base, start, size), here, unit, tau[i, :size])
    # Not a literal 0, for which numba would compile once more.
    sum_models(tau[: len(models)], np.int64(0), total)


@compiled
def sum_models(tau: Array, start: int, total: Array) -> None:
    """Sum over models of a tile of (n, ...) task vectors, cut where it overflows."""
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
    bits, minus_zero = _bits(base)
    found = np.int32(0)
    for j in range(bits.size):
        mask[j] = -np.int32(bits[j] == minus_zero)
        found |= mask[j]
    return bool(found != 0)


@compiled
def divide(merged: Array, shares: Array, unit: np.float32, scale: np.float32) -> None:
    """From sums over models to lambda times the merged task vector, in place."""
    for j in range(merged.size):
        merged[j] = merged[j] / max(shares[j], _NO_SHARE) * unit * scale


def add_to_base(merged: Array, base: Array, out: Array) -> bool:
    """Base + merged values of a tile, in the base's dtype; whether all are finite."""
    raise NotImplementedError("numba puts `_add_to_base` here")


@compiled
def _add_to_bfloat16(merged: Array, base: Array, out: Array) -> bool:
    largest = np.uint32(0)
    for j in range(out.size):
        value = merged[j] + _float(base[j])
        bits = np.float32(value).view(np.uint32)
        # To the nearest, and to even in the middle.
        odd = np.uint32((bits >> _HALF) & _ODD)
        rounded = np.uint32(np.uint32(bits + _MIDDLE + odd) >> _HALF)
        rounded = rounded if value == value else _HALF_NAN
        largest = max(largest, np.uint32(rounded & _MIDDLE))
        out[j] = rounded
    return bool(largest < _HALF_INFINITY)


@compiled
def _add_to_float32(merged: Array, base: Array, out: Array) -> bool:
    largest = np.uint32(0)
    for j in range(out.size):
        out[j] = merged[j] + base[j]
    bits = out.view(np.uint32)
    for j in range(out.size):
        largest = max(largest, np.uint32(bits[j] & ~_MINUS_ZERO))
    return bool(largest < _INFINITY_BITS)


@overload(add_to_base)
def _add_to_base(merged, base, out):
    add = _add_to_bfloat16 if base.dtype == types.uint16 else _add_to_float32
    return lambda merged, base, out: add(merged, base, out)


def _float(x: Any) -> np.float32:
    raise NotImplementedError("numba puts `_as_float` here")


@overload(_float, inline="always")
def _as_float(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << _HALF).view(np.float32)
    return lambda x: x


def _bits(x: Array) -> Any:
    raise NotImplementedError("numba puts `_bits_and_minus_zero` here")


@overload(_bits)
def _bits_and_minus_zero(x):
    if x.dtype == types.uint16:
        return lambda x: (x, _HALF_MINUS_ZERO)
    return lambda x: (x.view(np.uint32), _MINUS_ZERO)
