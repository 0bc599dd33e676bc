"""`mergekit-pcb compare`: one recipe's models merged by several methods, in a table.

For other tools: `compare_recipe` compares and returns a `Report`, which `show` prints;
an evaluation of the tool's own returns a `Score` for each task.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergekit_pcb.compare.evaluation import Score
    from mergekit_pcb.compare.recipe import compare_recipe
    from mergekit_pcb.compare.report import Report
    from mergekit_pcb.compare.terminal import show

__all__ = ["Report", "Score", "compare_recipe", "show"]

_MODULES = {
    "Report": "report",
    "Score": "evaluation",
    "compare_recipe": "recipe",
    "show": "terminal",
}


def __getattr__(name: str) -> Any:
    # When it is used, because torch and mergekit take seconds.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
