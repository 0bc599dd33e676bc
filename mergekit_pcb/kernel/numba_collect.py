"""Compiled counting, collecting and selecting: order statistics of values."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import numpy as np

from mergekit_pcb.kernel.numba_compact import compact
from mergekit_pcb.kernel.numba_compile import compiled
from mergekit_pcb.kernel.numba_tiles import ROOM, Array

_ALL_BUT_SIGN, _SIGN = np.int32(0x7FFFFFFF), np.int32(31)


@compiled
def collect(
    values: Array,
    counts: Array,
    edges: Array,
    shown: Array,
    tally: Array,
    inside: Array,
    kept: Array,
    top: Array,
) -> None:
    """Count and collect the values of n models for k pairs of edges each.

    Args:
        values: flat; tile by tile, and of each tile model by model.
        counts: (t, n) int32, how many there are of each tile and model.
        edges: (n, k, 2) lower and upper.
        shown: (n,) int64; added to it is how many values there are.
        tally: (n, k, 3) int64; added to it is how many values are below the edges, at
            the lower one, and at the upper one.
        inside: (n, ...) memory for the values between any two edges.
        kept: (n,) int64, how many these are; added to.
        top: (n,) the largest value of each model; NaN if there was one without a sign
            bit, as all of magnitudes are, and scores have none once these are finite.
    """
    mask, indices = np.empty(ROOM, dtype=np.int32), np.empty(ROOM, dtype=np.int32)
    end = 0
    for t in range(len(counts)):
        for i in range(counts.shape[1]):
            start, end = end, end + counts[t, i]
            shown[i] += end - start
            here = values[start:end]
            top.view(np.int32)[i] = _largest(here.view(np.int32), top.view(np.int32)[i])
            mask[: here.size] = 0
            for k in range(edges.shape[1]):
                _tally(here, edges[i, k], tally[i, k], mask)
            count = compact(mask, here.size, indices)
            for k in range(count):
                inside[i, kept[i] + k] = here[indices[k]]
            kept[i] += count


@compiled
def _tally(values: Array, edges: Array, tally: Array, mask: Array) -> None:
    low, high = edges
    below, at_low, at_high = np.int32(0), np.int32(0), np.int32(0)
    for j in range(values.size):
        below += np.int32(values[j] < low)
        at_low += np.int32(values[j] == low)
        at_high += np.int32(values[j] == high)
        mask[j] |= -np.int32((values[j] > low) & (values[j] < high))
    tally[0] += below
    tally[1] += at_low
    tally[2] += at_high


@compiled
def _largest(bits: Array, most: Any) -> Any:
    largest = _ordered(most)
    for j in range(bits.size):
        largest = max(largest, _ordered(bits[j]))
    return _ordered(largest)


@compiled
def _ordered(bits: Any) -> Any:
    """Bits of a float32 as an integer of the same order, and back.

    NaN is the largest, or the smallest if its sign bit is set.
    """
    return np.int32(bits ^ ((bits >> _SIGN) & _ALL_BUT_SIGN))


@compiled
def select(values: Array, first: int, second: int, memory: Array) -> Any:
    """The values of two ranks, ascending, of (m,) values, and the largest.

    Counting what is not above the middle of what is possible, some 30 times, takes no
    branch that depends on a value: much sooner done than any sorting. NaN counts as
    the largest.

    Args:
        values: (m,), m >= 1.
        first: zero-based rank.
        second: the same.
        memory: (m,) int32, overwritten.
    """
    bits = values.view(np.int32)
    least, largest = _ordered(bits[0]), _ordered(bits[0])
    for j in range(bits.size):
        memory[j] = _ordered(bits[j])
        least, largest = min(least, memory[j]), max(largest, memory[j])
    low = _at_rank(memory, first, least, largest)
    high = low if first == second else _at_rank(memory, second, low, largest)
    return _value(low), _value(high), _value(largest)


@compiled
def _at_rank(ordered: Array, rank: int, least: Any, largest: Any) -> Any:
    low, high = np.int64(least), np.int64(largest)
    while low < high:
        middle = (low + high) >> 1
        bound, count = np.int32(middle), np.uint32(0)
        for j in range(ordered.size):
            count = np.uint32(count + np.uint32(ordered[j] <= bound))
        if count > rank:
            high = middle
        else:
            low = middle + 1
    return np.int32(low)


@compiled
def _value(ordered: Any) -> Any:
    return np.int32(_ordered(ordered)).view(np.float32)
