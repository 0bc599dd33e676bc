"""`mergekit-pcb compare`: one recipe's models merged by several methods, in a table.

For other tools: `compare_recipe` compares, `show` prints its report, and an evaluation
of one's own returns a `Score` for each task.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergekit_pcb.compare.evaluation import Score
    from mergekit_pcb.compare.recipe import compare_recipe
    from mergekit_pcb.compare.terminal import show

__all__ = ["Score", "compare_recipe", "show"]

_MODULES = {"Score": "evaluation", "compare_recipe": "recipe", "show": "terminal"}


def __getattr__(name: str) -> Any:
    # When it is used, because torch and mergekit take seconds.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
