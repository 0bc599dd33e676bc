"""The sources of a recipe: its merge tasks as mergekit plans them."""

from __future__ import annotations

from mergekit.options import MergeOptions

from mergekit_pcb.errors import PCBError
from mergekit_pcb.inspect.plan import plan
from mergekit_pcb.plugin.graph_scope import parameters_of
from mergekit_pcb.recipes import edits
from mergekit_pcb.search.sources import Sources


def planned(file: str, recipe: edits.Recipe, options: MergeOptions) -> Sources:
    """Plan a recipe for pcb.

    Args:
        file: the recipe's.
        recipe: what is in it.
        options: as for a merge.

    Raises:
        PCBError: the recipe cannot be merged.
    """
    found = plan(file, options)
    for problem in found.stops.values():
        raise PCBError(problem)
    bound = map(parameters_of, found.merges)
    models = dict.fromkeys(model for each in bound for model in each["density"])
    return Sources(found.merges, list(models), options, recipe.get("out_dtype"))
