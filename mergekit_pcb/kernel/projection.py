"""`lambda: auto`: the lambda at which a merge keeps a wanted part of each task vector.

The merged task vector is linear in the weights, tau_m = sum_j w_j c_j. With task
vectors tau_i, its projection is the mean over the models of <tau_m, tau_i> / |tau_i|^2:
how much of each task vector it keeps. So one number a model is enough, whatever the
weights: k_j, the mean over i of <c_j, tau_i> / |tau_i|^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from mergekit_pcb.kernel.domain import ModelStatistics

TARGET_PROJECTION = 0.7
"""The projection that `auto` aims at for three models; for others see `target`."""

# Of lambda times the mean weight. No merge of real models comes near them; they limit
# what nearly equal or nearly opposite task vectors can do.
_LEAST, _LARGEST = 0.25, 4.0
# So that the number that is shown can be written into a recipe.
_DIGITS = 4


def projections(
    backend: ModuleType,
    sample: Any,
    statistics: Sequence[ModelStatistics],
    inter: str,
) -> list[float]:
    """How much of the task vectors each model's contribution keeps, at weight 1.

    Args:
        backend: works on the sample.
        sample: (n, m) task vectors at coordinates of the domain, all of them or drawn
            uniformly, of a kind that the backend takes; not modified.
        statistics: of each model on the domain.
        inter: form of the inter-balancing.

    Returns:
        k_j of each model. Models that did not move count in no mean; if none did, all
        are 0.
    """
    squares = backend.squares(sample)
    moved = squares > 0
    parts = np.divide(1, squares, where=moved, out=np.zeros(len(squares)))
    kept: list[float] = backend.project(
        sample, statistics, inter, parts / max(moved.sum(), 1)
    ).tolist()
    return kept


def target(models: int) -> float:
    """p, the projection that `auto` aims at for so many models, in (0, 1].

    To each model, what the others contribute is noise. At a projection p, task vectors
    that are orthogonal add up to p sqrt(models) times their length: this is kept the
    same. Settled by ``experiments.auto_lambda``.
    """
    return min(TARGET_PROJECTION * math.sqrt(3 / max(models, 1)), 1.0)


def auto_lambda(projected: Sequence[float], weight: Sequence[float]) -> float:
    """The lambda at which the projection of the merge is the `target`.

    A factor that all weights share changes nothing in the merge. Weights below 0 count
    like positive ones, so that a model that is subtracted does not make the others
    larger. Models that did not move or have no weight do not count. Where no model
    moved, and where the projection is not positive, the mean weight times lambda is 1.

    Args:
        projected: k_j of each model, see `projections`.
        weight: w_j of each model.

    Returns:
        A number of `_DIGITS` digits, above 0 and finite.
    """
    mean = math.fsum(map(abs, weight)) / len(weight)
    if not mean:
        return 1.0
    sizes = [abs(w) / mean for w in weight]
    projection = math.fsum(size * k for size, k in zip(sizes, projected, strict=True))
    models = sum(bool(k and w) for k, w in zip(projected, weight, strict=True))
    return float(f"{scale_for(projection, models) / mean:.{_DIGITS}g}")


def scale_for(projection: float, models: int) -> float:
    """The lambda for a projection at weights of 1, within bounds, not rounded."""
    if projection <= 0:
        return 1.0
    return min(max(target(models) / projection, _LEAST), _LARGEST)
