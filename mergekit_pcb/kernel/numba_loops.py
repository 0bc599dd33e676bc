"""Compiled loops: what `formula` says, for `inter: raw` and float32.

torch needs a pass over memory for each operation. Here all operations are done on one
tile of a tensor after the other, which stays in the processor's first-level cache. The
same operations in the same order give the same bits: no factor is moved, and no product
is fused with a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mergekit_pcb.kernel import exp2_tanh
from mergekit_pcb.kernel.formula import LEAST_EXPONENT
from mergekit_pcb.kernel.numba_compile import compiled

TILE = 1024
# Of sums in float64.
LANES = 8
# Values that are tested together for being beyond the shortcut of tanh.
_FEW = 64

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
_TINY, _LEAST = np.float32(1e-12), np.float32(LEAST_EXPONENT)
_LARGEST = np.finfo(np.float32).max
# For bfloat16, which is the first half of a float32.
_HALF, _ODD, _MIDDLE = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)
_HALF_NAN, _HALF_INFINITY = np.uint32(0x7FC0), np.uint32(0x7F80)
_ALL_BUT_SIGN, _SIGN = np.int32(0x7FFFFFFF), np.int32(31)
# numba does not notice when one of these changes: then change this file as well.
_ROUND, _MANTISSA = exp2_tanh.ROUND, exp2_tanh.MANTISSA
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = exp2_tanh.EXP2
_T0, _T1, _T2, _T3, _T4 = exp2_tanh.TANH
_DIFFERS, _IS_ONE = exp2_tanh.TANH_DIFFERS, exp2_tanh.TANH_IS_ONE
_IS_STEEP, _TWICE_LOG2_E = exp2_tanh.TANH_IS_STEEP, exp2_tanh.TWICE_LOG2_E

Array = Any
"""A numpy array whose rows are contiguous; of float32 unless said otherwise."""


@compiled
def subtract(model: Array, base: Array, out: Array) -> None:
    """Task vector, (m,), of (m,) bits of bfloat16."""
    for j in range(out.size):
        value = np.uint32(np.uint32(model[j]) << _HALF).view(np.float32)
        out[j] = value - np.uint32(np.uint32(base[j]) << _HALF).view(np.float32)


@compiled
def add_to_base(merged: Array, scale: np.float32, base: Array, out: Array) -> bool:
    """Base + lambda * merged task vector, in (m,) bits of bfloat16 like the base.

    Returns whether all of it is finite.
    """
    largest = np.uint32(0)
    for j in range(out.size):
        value = merged[j] * scale
        value += np.uint32(np.uint32(base[j]) << _HALF).view(np.float32)
        bits = np.float32(value).view(np.uint32)
        # To the nearest, and to even in the middle.
        odd = np.uint32((bits >> _HALF) & _ODD)
        rounded = np.uint32(np.uint32(bits + _MIDDLE + odd) >> _HALF)
        rounded = rounded if value == value else _HALF_NAN
        largest = max(largest, np.uint32(rounded & _MIDDLE))
        out[j] = rounded
    return bool(largest < _HALF_INFINITY)


@compiled
def collect_magnitudes(
    tau: Array, edges: Array, counts: Array, inside: Array, kept: Array, top: Array
) -> None:
    """Magnitudes of (n, m) task vectors; the other arguments are those of `collect`."""
    n, m = tau.shape
    magnitudes = np.empty(TILE, dtype=np.float32)
    mask = np.empty(TILE, dtype=np.uint8)
    for i in range(n):
        for start in range(0, m, TILE):
            tile = tau[i, start : start + TILE]
            here = magnitudes[: tile.size]
            for j in range(tile.size):
                here[j] = abs(tile[j])
            collect(i, here, mask, edges, counts, inside, kept, top)


@compiled
def all_scores(tau: Array, exponent: Array, extents: Array, b: Array) -> None:
    """(n, m) scores of (n, m) task vectors."""
    n, m = tau.shape
    memory = np.empty(TILE, dtype=np.float32)
    for start in range(0, m, TILE):
        total = memory[: min(TILE, m - start)]
        here = slice(start, start + total.size)
        _sum_models(tau, start, total)
        for i in range(n):
            _score(tau[i, here], total, exponent, extents[i], b[i, here])


@compiled
def collect_scores(
    tau: Array,
    exponent: Array,
    extents: Array,
    edges: Array,
    counts: Array,
    inside: Array,
    kept: Array,
    top: Array,
) -> None:
    """Scores of (n, m) task vectors; the last arguments are those of `collect`."""
    n, m = tau.shape
    memory = np.empty((2, TILE), dtype=np.float32)
    mask = np.empty(TILE, dtype=np.uint8)
    for start in range(0, m, TILE):
        size = min(TILE, m - start)
        total, b = memory[0, :size], memory[1, :size]
        _sum_models(tau, start, total)
        for i in range(n):
            tile = tau[i, start : start + size]
            _score(tile, total, exponent, extents[i], b)
            collect(i, b, mask, edges, counts, inside, kept, top)


@compiled
def collect(
    i: int,
    values: Array,
    mask: Array,
    edges: Array,
    counts: Array,
    inside: Array,
    kept: Array,
    top: Array,
) -> None:
    """Count and collect a tile of model i's values for (n, k, 2) edges.

    ``counts`` is (n, k, 3) int64: values below the edges, at the lower one, and at the
    upper one. What lies between is put into (n, m) ``inside``, counted in (n,) int64
    ``kept``. ``top`` is (n,), the largest. ``mask`` is uint8 memory for a tile.
    """
    largest = _ordered(top.view(np.int32)[i])
    bits = values.view(np.int32)
    for j in range(values.size):
        largest = max(largest, _ordered(bits[j]))
    top.view(np.int32)[i] = _ordered(largest)
    mask[:] = 0
    for k in range(edges.shape[1]):
        low, high = edges[i, k]
        below, at_low, at_high = np.uint32(0), np.uint32(0), np.uint32(0)
        for j in range(values.size):
            below = np.uint32(below + np.uint32(values[j] < low))
            at_low = np.uint32(at_low + np.uint32(values[j] == low))
            at_high = np.uint32(at_high + np.uint32(values[j] == high))
            mask[j] |= np.uint8((values[j] > low) & (values[j] < high))
        counts[i, k, 0] += below
        counts[i, k, 1] += at_low
        counts[i, k, 2] += at_high
    words, count = mask.view(np.uint64), kept[i]
    for word in range(words.size):
        if words[word]:  # few are not zero
            for j in range(8 * word, min(8 * word + 8, values.size)):
                inside[i, count] = values[j]
                count += np.int64(mask[j])
    kept[i] = count


@compiled
def _ordered(bits: Any) -> Any:
    """Bits of a float32 as an integer of the same order, NaN at the end; and back."""
    return np.int32(bits ^ ((bits >> _SIGN) & _ALL_BUT_SIGN))


@compiled
def select(bits: Array, ranks: Array) -> None:
    """Turn (n, k) int64 ranks into the bits of the values of these ranks.

    ``bits`` are those of (n, m) values, int32, and are overwritten. Counting what is
    not above the middle of what is possible, some 30 times, takes no branch that
    depends on a value: much sooner done than any sorting.
    """
    n, m = bits.shape
    for i in range(n):
        row = bits[i]
        least, largest = _ordered(row[0]), _ordered(row[0])
        for j in range(m):
            row[j] = _ordered(row[j])
            least, largest = min(least, row[j]), max(largest, row[j])
        for k in range(ranks.shape[1]):
            high = np.int64(largest)
            low = high if ranks[i, k] == m - 1 else np.int64(least)
            while low < high:
                middle = (low + high) >> 1
                bound, count = np.int32(middle), np.uint32(0)
                for j in range(m):
                    count = np.uint32(count + np.uint32(row[j] <= bound))
                if count > ranks[i, k]:
                    high = middle
                else:
                    low = middle + 1
            ranks[i, k] = _ordered(np.int32(low))


@compiled
def merge(
    tau: Array, exponent: Array, extents: Array, cut: Array, equal: Array, merged: Array
) -> None:
    """(m,) merged task vector of (n, m) task vectors; ``equal`` is (n,) bool."""
    n, m = tau.shape
    memory = np.empty((3, TILE), dtype=np.float32)
    for start in range(0, m, TILE):
        out = merged[start : start + TILE]
        total, b, shares = memory[0, : out.size], memory[1, : out.size], memory[2]
        _sum_models(tau, start, total)
        for i in range(n):
            tile = tau[i, start : start + out.size]
            _score(tile, total, exponent, extents[i], b)
            _compete(tile, b, extents[i], cut[i], equal[i], i == 0, out, shares)
        for j in range(out.size):
            out[j] /= max(shares[j], _TINY)


@compiled
def project(
    tau: Array,
    exponent: Array,
    extents: Array,
    cut: Array,
    equal: Array,
    parts: Array,
    kept: Array,
) -> None:
    """Sums of c_i times sum_j ``parts``_j tau_j, of (n, m) task vectors.

    ``cut`` has weights of 1, ``parts`` and the result ``kept`` are (n,) float64.
    """
    n, m = tau.shape
    memory = np.empty((n + 4, TILE), dtype=np.float32)
    wanted = np.zeros(TILE)
    for start in range(0, m, TILE):
        size = min(TILE, m - start)
        total, b = memory[n, :size], memory[n + 1, :size]
        s, shares = memory[n + 2, :size], memory[n + 3, :size]
        _sum_models(tau, start, total)
        for i in range(n):
            tile = tau[i, start : start + size]
            _score(tile, total, exponent, extents[i], b)
            _compete(tile, b, extents[i], cut[i], equal[i], True, memory[i, :size], s)
            for j in range(size):
                shares[j] = s[j] if i == 0 else shares[j] + s[j]
                product = np.float64(tile[j]) * parts[i]
                wanted[j] = product if i == 0 else wanted[j] + product
        for i in range(n):
            for j in range(size):
                memory[i, j] /= max(shares[j], _TINY)
            kept[i] += sum_of_products(memory[i, :size], wanted)


@compiled
def sum_of_products(few: Array, others: Array) -> float:
    """Of a tile of float32 and one of float64; in an order that `projection` repeats.

    The compiler may not change the order, and one after the other would be slow.
    """
    lanes = np.zeros(LANES)
    whole = few.size - few.size % LANES
    for j in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(few[j + lane]) * others[j + lane]
    for j in range(whole, few.size):
        lanes[j - whole] += np.float64(few[j]) * others[j]
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total


@compiled
def squares(tau: Array, found: Array) -> None:
    """Sums of the squares of (n, m) task vectors, (n,) float64."""
    n, m = tau.shape
    wide = np.zeros(TILE)
    for start in range(0, m, TILE):
        for i in range(n):
            tile = tau[i, start : start + TILE]
            for j in range(tile.size):
                wide[j] = tile[j]
            found[i] += sum_of_products(tile, wide)


@compiled
def _sum_models(tau: Array, start: int, total: Array) -> None:
    """Sum of a tile over models; as large as it can be where it overflows."""
    total[:] = tau[0, start : start + total.size]
    for i in range(1, len(tau)):
        tile = tau[i, start : start + total.size]
        for j in range(total.size):
            total[j] += tile[j]
    for j in range(total.size):
        finite = _ZERO if total[j] != total[j] else total[j]
        total[j] = min(max(finite, -_LARGEST), _LARGEST)


@compiled
def _score(tau: Array, total: Array, exponent: Array, extents: Array, b: Array) -> None:
    """Scores of a tile of one model."""
    low, high, floor, spread = extents
    steepness, shift = exponent
    for j in range(b.size):
        b[j] = tau[j] * total[j]
    for start in range(0, b.size, _FEW):
        few = b[start : start + _FEW]
        bent = False
        for j in range(few.size):
            bent |= abs(few[j]) >= _DIFFERS
        if bent:
            for j in range(few.size):
                if abs(few[j]) >= _DIFFERS:
                    few[j] = _tanh(few[j])
    for j in range(b.size):
        u = (max(min(abs(tau[j]), high), low) - floor) / spread
        b[j] *= _exp2(max(u * u * steepness - shift, _LEAST))


@compiled
def _exp2(x: Any) -> Any:
    """2^x, as `exp2_tanh.exp2_`."""
    whole = np.float32(x + _ROUND)
    x = x - (whole - _ROUND)
    result = (((((_E6 * x + _E5) * x + _E4) * x + _E3) * x + _E2) * x + _E1) * x + _E0
    power = np.int32(whole.view(np.int32) << _MANTISSA)
    return np.int32(np.float32(result).view(np.int32) + power).view(np.float32)


@compiled
def _tanh(x: Any) -> Any:
    """The tanh, as `exp2_tanh.tanh_`, where it differs from x."""
    if abs(x) < _IS_STEEP:
        square = x * x
        result = (((_T4 * square + _T3) * square + _T2) * square + _T1) * square + _T0
        return result * square * x + x
    exponential = _exp2(min(abs(x), _IS_ONE) * _TWICE_LOG2_E)
    return np.float32(np.copysign(_ONE - _TWO / (exponential + _ONE), x))


@compiled
def _compete(
    tau: Array,
    b: Array,
    extents: Array,
    cut: Array,
    equal: bool,
    first: bool,
    merged: Array,
    shares: Array,
) -> None:
    """Add what one model contributes to a tile, and its shares."""
    low, high, _, _ = extents
    threshold, span, weight = cut
    for j in range(b.size):
        magnitude = max(min(abs(tau[j]), high), low)
        sign = np.float32(tau[j] > 0) - np.float32(tau[j] < 0)
        s = max(b[j] - threshold, _ZERO) / span
        if equal:
            s = np.float32((b[j] >= threshold) & (sign != 0))
        share = sign * magnitude * s * weight
        merged[j] = share if first else merged[j] + share
        shares[j] = s if first else shares[j] + s
