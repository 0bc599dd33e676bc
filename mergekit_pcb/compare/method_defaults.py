"""Parameters for a method from a recipe that was written for another one."""

from __future__ import annotations

from typing import Any

from mergekit.merge_methods import MergeMethod

from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes import edits

# For parameters that a recipe for another method does not set. Where a value has been
# published for use without tuning, it is that one.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ties": {"density": 0.2},
    "dare_ties": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "della": {"density": 0.5},
    "della_linear": {"density": 0.5},
    "breadcrumbs": {"density": 0.9},
    "breadcrumbs_ties": {"density": 0.9},
    "sce": {"select_topk": 0.1},
}
_FOR_ANY_METHOD = {"weight": 1.0, "t": 0.5}
# These sum the task vectors, which others average, so a weight of 1 that is right for
# others is far too much: only the proportions of the weights are kept.
_SUMMING = {
    *("task_arithmetic", "dare_ties", "dare_linear", "della_linear"),
    *("breadcrumbs", "breadcrumbs_ties"),
}
_WEIGHT_IN_SUM = 0.4
# These mean something else for every method, which has its own defaults: a random half
# of the values is neither the largest half nor the half of the highest scores.
_OWN_PARAMETERS = {"density", "normalize", "rescale", "int8_mask"}


def take_over(
    draft: edits.Recipe, source: str, target: str, known: set[str]
) -> list[str]:
    """Drop from a recipe the parameters that another method does not share.

    Args:
        draft: changed in place.
        source: the method it was written for.
        target: the other method.
        known: the parameters that have an effect on the other method.

    Returns:
        The names of what was dropped.
    """
    dropped = edits.drop_unknown(draft, known - _OWN_PARAMETERS)
    if target in _SUMMING and source not in _SUMMING:
        edits.scale_weights(draft, _WEIGHT_IN_SUM)
    elif target == "pcb":
        edits.scale_weights(draft, 1.0)
    return [name for name in dropped if name != "int8_mask"]


def add_defaults(draft: edits.Recipe, method: MergeMethod) -> None:
    """Set the parameters that the recipe leaves out and the method requires.

    Raises:
        PCBError: the method requires a parameter that has no default here.
    """
    name = method.spec.name
    defaults = {**_FOR_ANY_METHOD, **_DEFAULTS.get(name, {})}
    if name in _SUMMING:
        defaults["weight"] = _WEIGHT_IN_SUM
    for parameter in method.spec.parameters:
        if parameter.required and parameter.name not in defaults:
            raise PCBError(
                f"{name} needs {parameter.name}: add it to the recipe, or "
                f"--set {name}.{parameter.name}=VALUE"
            )
        if parameter.required:
            edits.set_default(draft, parameter.name, defaults[parameter.name])
        elif edits.mentions(draft, parameter.name):
            continue
        elif parameter.name in _DEFAULTS.get(name, {}):
            edits.set_default(draft, parameter.name, defaults[parameter.name])
        elif parameter.name == "epsilon":
            edits.set_default(draft, parameter.name, _epsilon(draft))


def _epsilon(draft: edits.Recipe) -> float:
    """Half of what density may move by: density ± epsilon must stay in (0, 1)."""
    densities = [d for d in edits.values_of(draft, "density") if isinstance(d, float)]
    room = min([0.2, *densities, *(1 - density for density in densities)])
    return round(room / 2, 4)
