"""Evaluations: what a score is, and what is known of its items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mergekit_pcb.output.progress import Progress

VALIDATION, TEST, ALL = "validation", "test", "all"
"""Parts of the items: to choose settings by, to show, or everything for both."""


@dataclass(frozen=True)
class Score:
    """One model on one task.

    Attributes:
        value: of the metric.
        metric: its name.
        higher_is_better: None if neither high nor low is good.
        error: standard error of the value, if known.
        items: one number for each item, whose mean is the value, if there are such.
    """

    value: float
    metric: str
    higher_is_better: bool | None
    error: float | None = None
    items: Sequence[float] | None = None


Scores = Mapping[str, Score]


class Evaluation(Protocol):
    """A way to score models.

    Attributes:
        what: a sentence for the report.
        how_chosen: which items choose settings and which are shown, if it `splits`.
        splits: whether validation and test are different items.
        can_rank: whether scores are good or bad, so that the best can be chosen.
    """

    what: str
    how_chosen: str
    splits: bool
    can_rank: bool

    def identity(self, part: str) -> Any:
        """All that the scores depend on besides the model, for ``json.dumps``."""

    def __call__(self, model: Path, part: str, progress: Progress) -> Scores:
        """Score the model in a folder on a part of the items."""


def standard_error(items: Sequence[float]) -> float | None:
    """The standard error of the mean of some items."""
    if len(items) < 2:
        return None
    return float(np.std(items, ddof=1)) / math.sqrt(len(items))


def error_of_difference(first: Score, second: Score) -> float | None:
    """The standard error of the difference of two scores on one task.

    Where both answered the same items, it is that of the paired differences, which is
    smaller than that of two samples.
    """
    if first.items and second.items and len(first.items) == len(second.items) > 1:
        pairs = zip(first.items, second.items, strict=True)
        return standard_error([a - b for a, b in pairs])
    if first.error is None or second.error is None:
        return None
    return math.hypot(first.error, second.error)


def error_of_mean(errors: Sequence[float | None]) -> float | None:
    """The standard error of a mean over tasks, which are taken as independent."""
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    return math.hypot(*known) / len(known)


def per_item(raw: Sequence[Any], value: float) -> list[float] | None:
    """Items whose mean is ``value``, from what a metric saw of each document.

    Perplexities and bits per byte are functions of a ratio of sums. Their items are
    those of the tangent: the contribution of each document in first order.

    Args:
        raw: a number for each document, or a pair of a sum's part and its weight.
        value: what the metric made of it.

    Example:
        >>> per_item([1.0, 0.0, 1.0, 1.0], 0.75)
        [1.0, 0.0, 1.0, 1.0]
        >>> per_item([(-8.0, 2), (-4.0, 2)], 3.0) is None
        False
    """
    pairs = [x if isinstance(x, (tuple, list)) else (x, 1) for x in raw]
    if not pairs or not all(_is_pair_of_numbers(pair) for pair in pairs):
        return None
    weights = sum(weight for _, weight in pairs)
    if not weights:
        return None
    ratio = sum(part for part, _ in pairs) / weights
    slopes = [(ratio, 1.0), (-ratio, -1.0), (-ratio / math.log(2), -1 / math.log(2))]
    if -ratio < 700:
        slopes.append((math.exp(-ratio), -math.exp(-ratio)))
    for result, slope in slopes:
        if math.isclose(result, value, rel_tol=1e-6, abs_tol=1e-12):
            unit = slope * len(pairs) / weights
            return [value + unit * (part - ratio * weight) for part, weight in pairs]
    return None


def _is_pair_of_numbers(pair: Sequence[Any]) -> bool:
    return len(pair) == 2 and all(
        isinstance(number, Real) and math.isfinite(number) for number in pair
    )
