"""What `--sweep auto` tries: six settings for every method that has so many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mergekit_pcb.compare.budget import SCALE
from mergekit_pcb.plugin.parameters import DEFAULT_DENSITY, DEFAULT_LAMBDA

_AROUND_1 = (0.7, 1.0, 1.4)
# Of methods that start from a weight of 0.4, half of which is often right for many
# models, and twice as much for few.
_AROUND_SUMS = (0.6, 1.0, 1.7)

# By mergekit's name of the method. Each holds the setting that is used untuned.
# `lambda` rather than `weight`, so that the proportions of the recipe's weights stay.
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    # 1 is where the search of the paper starts.
    "pcb": {
        "density": (DEFAULT_DENSITY / 2, DEFAULT_DENSITY, DEFAULT_DENSITY * 2),
        "lambda": (DEFAULT_LAMBDA, 1.0),
    },
    "linear": {SCALE: (0.6, 0.8, 1.0, 1.25, 1.6, 2.0)},
    "task_arithmetic": {"lambda": (0.5, 0.75, 1.0, 1.35, 1.8, 2.5)},
    "ties": {"density": (0.2, 0.4), "lambda": _AROUND_1},
    "dare_ties": {"density": (0.2, 0.5), "lambda": _AROUND_SUMS},
    "dare_linear": {"density": (0.2, 0.5), "lambda": _AROUND_SUMS},
    "della": {"density": (0.2, 0.5), "lambda": _AROUND_1},
    "della_linear": {"density": (0.2, 0.5), "lambda": _AROUND_SUMS},
    "breadcrumbs": {"density": (0.5, 0.9), "lambda": _AROUND_SUMS},
    "breadcrumbs_ties": {"density": (0.5, 0.9), "lambda": _AROUND_SUMS},
    "sce": {"select_topk": (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)},
    # A switch is all that it has.
    "model_stock": {"filter_wise": (False, True)},
}


def automatic_sweep(names: Iterable[str]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """The grid of each method, by its name; none where there is nothing to tune.

    Args:
        names: of candidates, such as ``ties`` or ``pcb:model``.
    """
    methods = dict.fromkeys(name.partition(":")[0] for name in names)
    return {method: GRIDS[method] for method in methods if method in GRIDS}
