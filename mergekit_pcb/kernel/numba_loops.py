"""Compiled loops: what `formula` says, for `inter: raw` and float32.

torch needs a pass over memory for each operation. Here all operations are done on one
tile of a tensor after the other. What cannot change a result is screened out first:
magnitudes that are neither smallest nor largest, scores that reach no threshold. The
others survive, and only they are worked on.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import numpy as np

from mergekit_pcb.kernel.numba_compact import compact
from mergekit_pcb.kernel.numba_compile import compiled
from mergekit_pcb.kernel.numba_scores import (
    Screen,
    Shares,
    contribute,
    scores,
    screen_tile,
)
from mergekit_pcb.kernel.numba_tiles import (
    ROOM,
    TILE,
    Array,
    Block,
    minus_zeros,
    part,
    subtract,
    sum_models,
    write,
)
from mergekit_pcb.kernel.survivors import Survivors

_MINUS_ZERO, _ONE = np.float32(-0.0), np.float32(1)
_ALL_BUT_SIGN, _ALL = np.int32(0x7FFFFFFF), np.int32(-1)
# Whole vectors, so many values, are worked on: what is left over would be done one by
# one. What stands behind the end is not used.
VECTOR = 64


@compiled
def magnitudes(block: Block, gaps: Array, values: Array, counts: Array) -> None:
    """The magnitudes of task values, but those within a gap.

    `formula.ranked_values` without a scoring: |tau|.

    Args:
        block: where to work.
        gaps: (n, 2) bits of numbers >= 0; what is between is left out.
        values: room for all of them; tile by tile, and of each tile model by model.
        counts: (tiles, n) int32, how many there are of each.
    """
    inputs, like, start, stop = block
    tau = np.empty(ROOM, dtype=np.float32)
    bits = tau.view(np.int32)
    mask, indices = np.empty(ROOM, dtype=np.int32), np.empty(ROOM, dtype=np.int32)
    end = 0
    for t in range(len(counts)):
        first = start + t * TILE
        size = min(TILE, stop - first)
        here = part(inputs[-1], like, first, size)
        for i in range(len(inputs) - 1):
            low, high = gaps[i]
            subtract(part(inputs[i], like, first, size), here, _ONE, tau[:size])
            for j in range(size):
                bits[j] &= _ALL_BUT_SIGN
                mask[j] = np.int32((low - bits[j]) & (bits[j] - high)) ^ _ALL
            count = compact(mask, size, indices)
            for k in range(count):
                values[end + k] = tau[indices[k]]
            counts[t, i] = count
            end += count


@compiled
def survivors(block: Block, screen: Screen, found: Survivors) -> None:
    """Scores, but those that are certainly below a cut: `formula.ranked_values`.

    Args:
        block: where to work.
        screen: how models are scored, and what a score must reach.
        found: room for all scores.
    """
    inputs, like, start, stop = block
    unit, exponent, extents, cuts = screen
    places, b, v, counts = found
    n = len(inputs) - 1
    rows = np.empty((n + 3, ROOM), dtype=np.float32)
    memory = np.empty((3, ROOM), dtype=np.int32)
    zeros, mask, indices = memory[0], memory[1], memory[2]
    indices[:] = 0
    end = 0
    for t in range(len(counts)):
        first = start + t * TILE
        size = min(TILE, stop - first)
        here = part(inputs[-1], like, first, size)
        for i in range(n):
            model = part(inputs[i], like, first, size)
            subtract(model, here, unit, rows[i, :size])
        total = rows[n, :size]
        # Not a literal 0, for which numba would compile once more.
        sum_models(rows[:n], np.int64(0), total)
        # There the sign of what is added decides the sign of the result.
        keep = minus_zeros(here, zeros)
        for i in range(n):
            tau = rows[i, :size]
            if cuts[i] == -np.inf:
                mask[:size] = _ALL
            else:
                screen_tile(tau, total, exponent, extents[i], cuts[i], mask)
                if keep:
                    for j in range(size):
                        mask[j] |= zeros[j]
            count = compact(mask, size, indices)
            whole = (count + VECTOR - 1) // VECTOR * VECTOR
            x, sums = rows[n + 1, :whole], rows[n + 2, :whole]
            for k in range(count):
                places[end + k] = indices[k]
                x[k] = tau[indices[k]]
                sums[k] = total[indices[k]]
            x[count:] = 0
            sums[count:] = 0
            kept = slice(end, end + whole)
            scores(x, sums, exponent, extents[i], b[kept], v[kept], mask, indices)
            counts[t, i] = count
            end += count


@compiled
def merge(block: Block, found: Survivors, shares_of: Shares, out: int) -> bool:
    """Base + lambda * merged task vector of what survived.

    The end of `formula.merge_block`: `drop_and_rescale_` and `weighted_mean`.

    Args:
        block: where to work.
        found: the scores there that may be above their threshold.
        shares_of: what scores become.
        out: address of a tensor like the base.

    Returns:
        Whether the result is finite.
    """
    inputs, like, start, stop = block
    places, b, v, counts = found
    cut, weight, unit, scale = shares_of
    memory = np.empty((4, ROOM), dtype=np.float32)
    merged, shares, s, share = memory[0], memory[1], memory[2], memory[3]
    finite = True
    end = 0
    for t in range(len(counts)):
        first = start + t * TILE
        size = min(TILE, stop - first)
        # The sum of nothing: adding to it leaves the sign of a zero alone.
        merged[:size] = _MINUS_ZERO
        shares[:size] = 0
        for i in range(counts.shape[1]):
            count = counts[t, i]
            kept = slice(end, end + (count + VECTOR - 1) // VECTOR * VECTOR)
            contribute(b[kept], v[kept], cut[i], weight[i], s, share)
            for k in range(count):
                j = places[end + k]
                shares[j] += s[k]
                merged[j] += share[k]
            end += count
        here, there = part(inputs[-1], like, first, size), part(out, like, first, size)
        finite &= write(merged, shares, unit, scale, here, there)
    return finite
