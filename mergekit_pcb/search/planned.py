"""The sources of a recipe: its merge tasks as mergekit plans them."""

from __future__ import annotations

import copy
from pathlib import Path

from mergekit.options import MergeOptions

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.errors import PCBError
from mergekit_pcb.inspect.plan import plan
from mergekit_pcb.plugin.plan_tasks import parameters_of
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.layout import in_yaml
from mergekit_pcb.search.sources import Sources


def depths(
    folder: Path, recipe: edits.Recipe, options: MergeOptions
) -> dict[str, float]:
    """The place of each tensor in a gradient, 0 to 1, by its name: as mergekit says.

    Args:
        folder: for a recipe that is planned once more.
        recipe: for pcb, with `models`.
        options: as for a merge.
    """
    probe = copy.deepcopy(recipe)
    # At every place, this gradient is the place.
    edits.set_everywhere(probe, "weight", [0.0, 1.0])
    file = folder / "depths.yml"
    write_file(file, in_yaml([probe], [""]))
    found = {}
    for merge in planned(str(file), probe, options).merges:
        (*_, place) = parameters_of(merge)["weight"].values()
        found[merge.output_weight.name] = float(place)
    return found


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
