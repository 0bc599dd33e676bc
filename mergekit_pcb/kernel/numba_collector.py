"""What compiled loops show of a block, counted and collected for all brackets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from mergekit_pcb.kernel import numba_collect
from mergekit_pcb.kernel.collectors import RankSearch
from mergekit_pcb.kernel.numba_tiles import Array
from mergekit_pcb.kernel.order_statistics import Bracket

# Collected values that may wait until they are assigned to their brackets.
_PENDING = 1 << 14

Gap = tuple[float, float]
"""Values between the two need not be shown: no bracket is there."""


def widest_gap(brackets: Sequence[Bracket]) -> Gap:
    """Between which neighbours of one model's brackets most values are."""
    if not brackets:
        return -math.inf, math.inf
    ordered = sorted(brackets, key=lambda bracket: bracket.rank)
    pairs = [(b.rank - a.rank, a.high, b.low) for a, b in pairwise(ordered)]
    _, low, high = max(pairs, default=(0, math.inf, -math.inf))
    return low, high


class NumbaCollector:
    """Counts and collects for all brackets in one pass."""

    def __init__(self, search: RankSearch, gaps: Sequence[Gap]) -> None:
        """Begin a search in which the values in each model's gap are left out."""
        self._search = search.fresh()
        self._gaps = gaps
        most = max(map(len, search.brackets))
        # Nothing is between infinity and minus infinity.
        edges = np.full((len(search.brackets), most, 2), (np.inf, -np.inf))
        for of_model, brackets in zip(edges, search.brackets, strict=True):
            for pair, bracket in zip(of_model, brackets, strict=False):
                pair[:] = bracket.low, bracket.high
        self._edges: Array = edges.astype(np.float32)
        self._top: Array = np.array(self._search.top, dtype=np.float32)
        n = len(search.brackets)
        self._tally: Array = np.zeros((n, most, 3), dtype=np.int64)
        self._shown: Array = np.zeros(n, dtype=np.int64)
        self._inside: Array = np.empty((n, 0), dtype=np.float32)
        self._kept: Array = np.zeros(n, dtype=np.int64)
        self._size = 0

    def add(self, values: Array, counts: Array, size: int) -> None:
        """Take in a block of ``size`` values of each model.

        Args:
            values: those outside the gaps, see `numba_collect.collect`.
            counts: (t, n) int32, how many there are of each tile and model.
            size: coordinates of the block.
        """
        if self._inside.shape[1] < size + _PENDING:
            n = len(self._kept)
            self._inside = np.empty((n, size + _PENDING), dtype=np.float32)
        numba_collect.collect(
            values,
            counts,
            self._edges,
            self._shown,
            self._tally,
            self._inside,
            self._kept,
            self._top,
        )
        self._size += size
        if self._kept.max() > _PENDING:
            self._assign()

    def result(self) -> RankSearch:
        """What was seen."""
        self._assign()
        self._search.top = self._top.tolist()
        left_out = (self._size - self._shown).tolist()
        for brackets, gap, count, tally in zip(
            self._search.brackets, self._gaps, left_out, self._tally, strict=True
        ):
            for bracket, seen in zip(brackets, tally.tolist(), strict=False):
                bracket.below, bracket.at_low, at_high = seen
                bracket.below += count if bracket.low >= gap[1] else 0
                bracket.at_high = at_high if bracket.low < bracket.high else 0
        return self._search

    def _assign(self) -> None:
        """Give every bracket the values that lie inside it."""
        for brackets, row, count in zip(
            self._search.brackets, self._inside, self._kept.tolist(), strict=True
        ):
            values = row[:count]
            for bracket in brackets:
                inside = values[(values > bracket.low) & (values < bracket.high)]
                bracket.inside.append(torch.from_numpy(inside))
        self._kept[:] = 0
