"""Compiled loops that merge again from `kept_rows`, as its functions for torch do."""

# numba has no annotations.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mergekit_pcb.kernel.kept_rows import BLOCK
from mergekit_pcb.kernel.numba_compile import compiled
from mergekit_pcb.kernel.numba_tiles import Array, _float

_HALF, _ODD, _MIDDLE = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)
_UPPER = np.uint32(0xFFFF0000)


class Arguments(NamedTuple):
    """What is merged, and how.

    Attributes:
        memory, starts, counts, rows: see `kept_rows.KeptRows`.
        weights: (n,) float32; none if the only row is their sum.
        is_mean, unit, scale: see `kept_rows.Arithmetic`.
        steps: whether to round to bfloat16 after every operation.
        half: whether to round the result to bfloat16.
    """

    memory: Array
    starts: Array
    counts: Array
    rows: int
    weights: Array
    is_mean: bool
    unit: np.float32
    scale: np.float32
    steps: bool
    half: bool


@compiled
def write(arguments: Arguments, base: Array, out: Array, start: int, stop: int) -> None:
    """Write the merge of some blocks at the coordinates that are left."""
    memory, starts, counts, rows, weights, is_mean, unit, scale, steps, half = arguments
    total = np.empty(BLOCK, dtype=np.float32)
    for b in range(start, stop):
        to = out[b * BLOCK : (b + 1) * BLOCK]
        of = base[b * BLOCK : (b + 1) * BLOCK]
        count, first = counts[b], starts[b]
        end = first + rows * count
        values = memory[first : first + count]
        if len(weights):
            sums = total[:count]
            _weighted(memory[first:end], weights, steps, sums)
            if is_mean:
                _divided(sums, memory[end - count : end], unit)
            values = sums
        if count == len(to):
            for j in range(count):
                to[j] = _added(values[j], _float(of[j]), scale, steps, half)
        else:
            places = memory[end : end + (count + 1) // 2].view(np.uint16)
            for j in range(count):
                i = places[j]
                to[i] = _added(values[j], _float(of[i]), scale, steps, half)


@compiled
def _weighted(rows: Array, weights: Array, steps: bool, sums: Array) -> None:
    count = len(sums)
    for i in range(len(weights)):
        row, weight = rows[i * count : (i + 1) * count], weights[i]
        if steps and i == 0:
            for j in range(count):
                sums[j] = _rounded(row[j] * weight)
        elif steps:
            for j in range(count):
                sums[j] += _rounded(row[j] * weight)
        elif i == 0:
            for j in range(count):
                sums[j] = row[j] * weight
        else:
            for j in range(count):
                sums[j] += row[j] * weight
    if steps:
        for j in range(count):
            sums[j] = _rounded(sums[j])


@compiled
def _divided(sums: Array, by: Array, unit: np.float32) -> None:
    for j in range(len(sums)):
        sums[j] = sums[j] / by[j] * unit


@compiled
def _added(
    value: np.float32, base: np.float32, scale: np.float32, steps: bool, half: bool
) -> np.float32:
    change = np.float32(value * scale)
    if steps:
        change = _rounded(change)
    merged = np.float32(change + base)
    return _rounded(merged) if half else merged


@compiled
def _rounded(value: np.float32) -> np.float32:
    """To the nearest bfloat16, and to even in the middle."""
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32((bits >> _HALF) & _ODD)
    rounded = np.uint32(np.uint32(bits + _MIDDLE + odd) & _UPPER)
    return np.uint32(rounded).view(np.float32)
