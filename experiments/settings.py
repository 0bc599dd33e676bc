"""What each method is given: nothing, or the same number of tries."""

from __future__ import annotations

from mergekit_pcb.compare.grids import automatic_sweep

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

# Those of `compare --sweep auto`: six each, one of them the untuned setting.
# `model_stock` has a switch to try, `karcher` nothing.
TRIES = automatic_sweep(METHODS)
