"""`mergekit-pcb inspect`: task vectors and competition of a recipe, without a merge.

For other tools: `inspect_recipe` measures a recipe and returns an `Inspection`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergekit_pcb.inspect.collect import inspect_recipe
    from mergekit_pcb.inspect.inspection import Inspection

__all__ = ["Inspection", "inspect_recipe"]


def __getattr__(name: str) -> Any:
    # When it is used, because torch and mergekit take seconds.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.collect"), name)
