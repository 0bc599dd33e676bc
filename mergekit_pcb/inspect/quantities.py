"""The quantities that `inspect` reports: keys in JSON and CSV, labels in tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mergekit_pcb.kernel.metrics import Metrics


def count(number: int) -> str:
    """A number of weights in four characters or so."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.{1 if number < 100 * unit else 0}f}{name}"
    return str(number)


def percent(share: float | None) -> str:
    """A share in percent, without the sign."""
    if share is None:
        return "-"
    if 0 < share < 0.0005:
        return "<0.1"
    return f"{100 * share:.1f}"


def ratio(value: float | None) -> str:
    """A ratio of any size."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value == 0 or value >= 0.01 else f"{value:.0e}"


def cosine(value: float | None) -> str:
    """A cosine similarity."""
    # Adding 0 takes the sign off what rounds to -0.
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"


def values(metrics: Metrics) -> dict[str, Any]:
    """The quantities that depend on no setting, by their keys in JSON and CSV."""
    return {
        "weights": metrics.weights,
        "base_norm": math.sqrt(metrics.base_square),
        "norms": metrics.norms(),
        "mean_norm": math.sqrt(metrics.mean_square),
        "cosines": metrics.cosines(),
        "contested": metrics.contested / metrics.weights,
        "sign_conflicts": metrics.conflict_share(),
    }


def setting_values(metrics: Metrics, k: int) -> dict[str, Any]:
    """The quantities that depend on setting ``k``, by their keys in JSON and CSV."""
    competition = metrics.outcomes[k]
    none, one, several = competition.shares()
    return {
        "kept_by_none": none,
        "kept_by_one": one,
        "kept_by_several": several,
        "kept": competition.kept_shares(),
        "wins": competition.win_shares(),
        "tied": competition.tied_share(),
        "merged_norm": math.sqrt(competition.merged_square),
        "merged_over_mean": metrics.merged_over_mean(competition),
    }


def relative_norms(metrics: Metrics) -> list[float | None]:
    """Norm of each task vector over that of the base, for tables and figures."""
    base = math.sqrt(metrics.base_square)
    return [norm / base if base else None for norm in metrics.norms()]


BY_MODEL = {
    "norms": "norm",
    "relative_norms": "relative norm",
    "kept": "kept",
    "wins": "wins",
}
"""Quantities with one value a model, and how their columns in CSV begin."""


class Shown(NamedTuple):
    """How the tables show a quantity: row by kind, column by layer, one value."""

    row: str
    heading: str = ""
    text: Callable[[Any], str] = percent


SHOWN = {
    "weights": Shown("weights", "weights", count),
    "sign_conflicts": Shown("signs disagree, %", "disagree"),
    "relative_norms": Shown("norm, % of the base's"),
    "kept_by_none": Shown("kept by none, %", "none"),
    "kept_by_one": Shown("kept by one, %", "one"),
    "kept_by_several": Shown("kept by several, %", "several"),
    "merged_over_mean": Shown("merged / mean", "merged", ratio),
    "kept": Shown("keeps, %"),
    "wins": Shown("wins, %"),
    "tied": Shown("  tied"),
}
"""What the tables show, in their order."""

DEFINITIONS = {
    "task vector": "A model's weights minus the base's.",
    "signs disagree": (
        "Of the weights that at least two models change, those that one model raises "
        "and another lowers."
    ),
    "keeps": (
        "The model is one of those that make the merged value there: its rescaled "
        "score s is above 0."
    ),
    "wins": (
        "Of the weights that anybody keeps, those where the model's s is larger than "
        "every other's, and so is its share of the merged value. Tied: nobody's is."
    ),
    "merged / mean": (
        "Norm of what the merge adds to the base, over the norm of the mean of the "
        "task vectors; near 0, the merge is the base model."
    ),
    "outside": "Tensors in no layer: embeddings, the head, the last norm.",
}
