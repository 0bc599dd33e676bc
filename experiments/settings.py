"""What each method is given: nothing, or the same number of tries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METHODS = (
    "linear",
    "task_arithmetic",
    "ties",
    "dare_ties",
    "della",
    "breadcrumbs",
    "sce",
    "model_stock",
    "karcher",
    "pcb",
    "pcb:model",
)

# Six tries each. A lambda means more to a method that sums than to one that averages,
# so the ranges differ. Two methods have nothing to try.
TRIES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "linear": {"scale": (0.7, 1.0, 1.4, 1.8, 2.4, 3.2)},
    "task_arithmetic": {"lambda": (0.2, 0.3, 0.4, 0.55, 0.75, 1.0)},
    "ties": {"density": (0.2, 0.5), "lambda": (0.8, 1.2, 1.6)},
    "dare_ties": {"density": (0.2, 0.5), "lambda": (0.3, 0.5, 0.8)},
    "della": {"density": (0.2, 0.5), "lambda": (0.8, 1.2, 1.6)},
    "breadcrumbs": {"density": (0.5, 0.9), "lambda": (0.3, 0.5, 0.8)},
    "sce": {"select_topk": (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)},
    "pcb": {"density": (0.1, 0.4), "lambda": (0.7, 1.1, 1.6)},
}
# The customary weight of methods that sum, 0.4, is a lambda by another name.
TUNED_FIXED = {"": {"weight": 1.0}}
