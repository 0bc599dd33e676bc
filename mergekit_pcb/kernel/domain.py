"""A domain: coordinates that are ranked together, how, and what must be known of them.

Shapes as in `formula`: n models, d coordinates of the domain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

INTER_FORMS = ("raw", "normalized", "pairwise")

# Task values below this are scored in another unit.
_TINY = 2.0**-40


@dataclass(frozen=True)
class Options:
    """How models compete; the same for all of them.

    Attributes:
        inter: form of the inter-balancing, one of `INTER_FORMS`.
        clamp: c in [0, 0.5), the fraction of magnitudes clamped at each end.
    """

    inter: str = "raw"
    clamp: float = 0.01


class ModelStatistics(NamedTuple):
    """What the arithmetic must know about one model on the whole domain.

    Attributes:
        low: smallest magnitude after clamping.
        high: largest magnitude after clamping; 0 for a model that does not compete.
        threshold: the score t_i that the kept fraction of coordinates reaches.
        top: largest score.
    """

    low: float
    high: float
    threshold: float
    top: float

    @classmethod
    def of(
        cls, low: float, high: float, threshold: float, top: float
    ) -> ModelStatistics:
        """The statistics; a model of zeros gets a threshold that no score reaches."""
        if high == 0:
            return cls(low, high, math.inf, -math.inf)
        # Whether 0 or -0 has the rank is chance; it would decide the sign of zeros.
        return cls(low, high, threshold + 0.0, top)

    @property
    def has_equal_scores(self) -> bool:
        """Whether all scores that reach the threshold are equal."""
        return self.top <= self.threshold


class Extent(NamedTuple):
    """Range of one model's clamped magnitudes A, and u = (A - floor) / spread.

    Attributes:
        low, high: smallest and largest.
        floor, spread: what to subtract, and then to divide by, to get u in [0, 1].
    """

    low: float
    high: float
    floor: float
    spread: float


def extent_of(low: float, high: float) -> Extent:
    """Equal magnitudes have u = 1; if they are all 0, u = 0."""
    if low < high:
        return Extent(low, high, low, high - low)
    return Extent(low, high, 0.0, high or 1.0)


def unit_of(largest: float) -> float:
    """What task values are multiplied by before they are scored: a power of two.

    Far above where squares underflow; far below where tanh differs from its argument,
    before and after. float64 has powers up to 2^1023.

    Args:
        largest: clamped magnitude.
    """
    if 0 < largest < _TINY:
        return math.ldexp(1.0, min(-30 - math.frexp(largest)[1], 1000))
    return 1.0


@dataclass(frozen=True)
class Scoring:
    """What scores depend on besides the task values.

    Attributes:
        extents: range of the clamped magnitudes of each model, times ``unit``.
        inter: form of the inter-balancing.
        unit: power of two that task values are multiplied by before they are scored,
            so that products of tiny ones do not underflow; 1 for all others. Scores
            matter only up to a factor, so it changes no result that did not underflow.
    """

    extents: Sequence[Extent]
    inter: str = "raw"
    unit: float = 1.0

    @classmethod
    def of(cls, limits: Iterable[Sequence[float]], inter: str) -> Scoring:
        """The scoring for the low and high of each model's clamped magnitudes."""
        limits = list(limits)
        unit = unit_of(max(high for _, high in limits))
        extents = [extent_of(low * unit, high * unit) for low, high in limits]
        return cls(extents, inter, unit)

    @classmethod
    def of_statistics(
        cls, statistics: Iterable[ModelStatistics], inter: str
    ) -> Scoring:
        """The scoring that the statistics of all models were made with."""
        return cls.of([(m.low, m.high) for m in statistics], inter)


class Domain(Protocol):
    """The coordinates on which n models compete."""

    @property
    def size(self) -> int:
        """Number d of coordinates."""
        ...

    @property
    def models(self) -> int:
        """Number n of models."""
        ...

    def sample(self) -> Any:
        """The (n, m) task vectors at m coordinates drawn uniformly, or at all."""
        ...

    def order_statistics(
        self, scoring: Scoring | None, ranks: Sequence[list[int]]
    ) -> tuple[Sequence[Sequence[float]], Sequence[float]]:
        """Exact order statistics of the domain.

        Args:
            scoring: None to rank magnitudes, else scores are ranked.
            ranks: zero-based ranks wanted of each model, ascending order.

        Returns:
            The values at these ranks, and the largest value of each model.

        Raises:
            NotFiniteError: an input holds NaN or infinity.
        """
        ...
