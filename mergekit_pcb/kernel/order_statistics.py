"""Exact order statistics, of values in memory or of a stream that is never stored.

For a stream, a random sample gives two values between which the wanted one very likely
lies. One sweep over the stream then counts the values below and collects those inside.
The counts prove the result, or prove that the bracket missed: it is never an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mergekit_pcb.kernel.errors import NotFiniteError

# Half the width of a bracket, in standard deviations of a sample quantile: a miss
# is then a matter of one in 300,000 and costs no more than another sweep.
_SIGMAS = 4.5


def require_finite(tops: Sequence[float]) -> None:
    """Check the largest magnitude of each model.

    Raises:
        NotFiniteError: one of them is NaN or infinity.
    """
    for i, top in enumerate(tops):
        if not top < math.inf:
            raise NotFiniteError(f"task vector {i} is not finite")


def kth_smallest(values: torch.Tensor, ranks: Sequence[int]) -> list[float]:
    """For each row, the value at its rank were the row sorted ascending.

    Args:
        values: (n, d) floating point without NaN; not modified.
        ranks: n zero-based ranks, 0 <= rank < d.

    Raises:
        IndexError: no such rank.
    """
    size = values.shape[1]
    for rank in ranks:
        if not 0 <= rank < size:
            raise IndexError(f"rank {rank} of {size} values")
    if values.device.type == "cpu":  # several times faster than torch
        return [
            float(np.partition(row, rank)[rank])
            for row, rank in zip(values.numpy(), ranks, strict=True)
        ]
    return [
        row.kthvalue(rank + 1).values.item()
        for row, rank in zip(values, ranks, strict=True)
    ]


@dataclass
class Bracket:
    """Searches the value of one rank between ``low`` and ``high``.

    A sweep yields only counts and sets, so partial results may be combined in any
    order with the same result. Values equal to ``low`` or ``high`` are counted, not
    collected: many equal values in a row of ranks reach one of the two.

    Attributes:
        rank: zero-based rank among all values of the stream.
        low, high: where the value is looked for; -inf and inf are no bounds.
        expected: how many values of the stream are likely to lie between.
        below, at_low, at_high: values seen below ``low``, equal to it, and to ``high``
            (if that is another number).
        inside: the values seen between the two.
        lost: whether there were more of them than could be kept.
    """

    rank: int
    low: float = -math.inf
    high: float = math.inf
    expected: float = math.inf
    below: int = 0
    at_low: int = 0
    at_high: int = 0
    inside: list[torch.Tensor] = field(default_factory=list)
    lost: bool = False

    @classmethod
    def around(
        cls, rank: int, size: int, ordered: torch.Tensor, slack: float = 1.0
    ) -> Bracket:
        """A bracket for ``rank`` of ``size`` values, judged by a sample of them.

        Args:
            rank: zero-based rank among the ``size`` values of the stream.
            size: how many values the stream will have.
            ordered: (m,) values drawn from it uniformly, with replacement, ascending.
            slack: factor on the usual width, for another try after a miss.
        """
        drawn = ordered.numel()
        quantile = rank / size
        centre = quantile * drawn
        deviation = math.sqrt(drawn * quantile * (1 - quantile))
        # The 2 serves the ends, where a quantile's deviation says little.
        half = slack * (_SIGMAS * deviation + 2)
        first, last = math.floor(centre - half), math.ceil(centre + half)
        return cls(
            rank,
            float(ordered[first]) if first >= 0 else -math.inf,
            float(ordered[last]) if last < drawn else math.inf,
            (min(last, drawn) - max(first, 0)) / drawn * size,
        )

    def value(self) -> float | None:
        """The value at ``rank``, or None if it turned out to lie outside."""
        rank = self.rank - self.below
        if rank < 0 or self.lost:
            return None
        if rank < self.at_low:
            return self.low
        rank -= self.at_low
        count = sum(map(len, self.inside))
        if rank < count:
            return kth_smallest(torch.cat(self.inside).view(1, -1), [rank])[0]
        return self.high if rank - count < self.at_high else None

    def absorb(self, other: Bracket) -> None:
        """Add what ``other``, the same bracket elsewhere in the stream, has seen."""
        self.below += other.below
        self.at_low += other.at_low
        self.at_high += other.at_high
        self.inside += other.inside
        self.lost |= other.lost

    def fresh(self) -> Bracket:
        """The same bracket before it has seen anything."""
        return Bracket(self.rank, self.low, self.high, self.expected)
