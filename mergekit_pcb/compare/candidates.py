"""From one recipe to one for each method and setting of a comparison."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit.merge_methods import BasePolicy, MergeMethod, registered_methods
from mergekit.merge_methods.base import MergeMethodSpec, ParameterSpec
from pydantic import ValidationError

from mergekit_pcb.compare.budget import SCALE, Values, tries
from mergekit_pcb.compare.methods import (
    add_defaults,
    effective_parameters,
    find_method,
    require_known,
    take_over,
)
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import AUTO
from mergekit_pcb.recipes import edits

METHODS = (
    "linear",
    "task_arithmetic",
    "ties",
    "dare_ties",
    "della",
    "sce",
    "pcb",
    "pcb:model",
)

# Parameters that a label names even where they are at the method's default.
_IN_LABEL = ("density", "epsilon", "gamma", "select_topk", "t", "weight", "lambda")
_NEVER_IN_LABEL = ("int8_mask", "scope")


# By the name of a candidate or a method, or by "" for all.
Fixed = Mapping[str, Mapping[str, Any]]
Swept = Mapping[str, Values]


@dataclass(frozen=True)
class Candidate:
    """One merge of a comparison: a method with one setting.

    Attributes:
        name: of its row; of the candidates with one name the best is chosen.
        method: mergekit's name of the method.
        recipe: what mergekit is given.
        label: the settings in words.
        swept: the values that were varied, by name.
        note: what is different for this method, in words.
        given: the file, if it is a recipe of the user's, merged as it is.
    """

    name: str
    method: str
    recipe: Mapping[str, Any]
    label: str
    swept: Mapping[str, Any]
    note: str = ""
    given: str = ""


def candidates(
    recipe: edits.Recipe,
    names: Sequence[str] = METHODS,
    fixed: Fixed | None = None,
    swept: Swept | None = None,
) -> list[Candidate]:
    """Every merge to be made.

    Args:
        recipe: for any method. That method keeps it; the others take what they know.
        names: of methods, with ``pcb:model`` for ``scope: model``.
        fixed: parameters by the name of the candidate or its method, or by ``""`` for
            every method that has them.
        swept: values to try, likewise; what a method is given of its own takes the
            place of what all are given. Every method gets as many tries.

    Raises:
        PCBError: a name is unknown, a method needs a parameter that is not set, or one
            would get more tries than another.
    """
    fixed, swept = fixed or {}, swept or {}
    methods = {name: find_method(name) for name in names}
    require_known(fixed, swept, methods)
    _require_valid_sweep(swept, methods)
    settings = {
        name: tries(
            method.spec.name, effective_parameters(method), _nearest(swept, name)
        )
        for name, method in methods.items()
    }
    # A method with nothing to vary, or with a switch only, cannot be tried more often.
    counts = {
        name: len(tried)
        for name, tried in settings.items()
        if any(not isinstance(value, bool) for value in tried[0].values())
    }
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise PCBError(f"every method needs the same number of tries: {listed}")
    return [
        _candidate(recipe, name, methods[name], fixed, setting)
        for name, of_method in settings.items()
        for setting in of_method
    ]


def _nearest(swept: Swept, name: str) -> Values:
    places = (name, name.partition(":")[0], "")
    return next((swept[place] for place in places if place in swept), {})


def _candidate(
    recipe: edits.Recipe,
    name: str,
    method: MergeMethod,
    fixed: Fixed,
    setting: Mapping[str, Any],
) -> Candidate:
    spec, known = method.spec, effective_parameters(method)
    draft = copy.deepcopy(recipe)
    own = draft["merge_method"] == spec.name
    draft["merge_method"] = spec.name
    dropped = [] if own else take_over(draft, recipe["merge_method"], spec.name, known)
    # A file of statistics is one of the recipe's own density and scope.
    edits.drop(draft, "statistics")
    values = {"scope": name.partition(":")[2] or "tensor", **setting}
    for place in ("", spec.name, name):
        values |= fixed.get(place, {})
    for parameter in spec.parameters:
        if parameter.name in values and parameter.name in known:
            _require_valid(parameter, values[parameter.name], name)
            edits.set_everywhere(draft, parameter.name, values[parameter.name])
    if not own:
        add_defaults(draft, method)
    label = settings_in_words(draft, method, setting)
    if spec.contract.base == BasePolicy.IGNORED:
        _keep_base_out(draft, name, spec, setting.get(SCALE), own=own)
    note = f"without {', '.join(dropped)}" if dropped else ""
    return Candidate(name, spec.name, draft, label, setting, note)


def _keep_base_out(
    draft: edits.Recipe,
    name: str,
    spec: MergeMethodSpec,
    scale: float | None,
    *,
    own: bool,
) -> None:
    """Let a method that knows no base not average it in, or as far as ``scale`` says.

    Where the method has weights, the base still gives configuration and tokenizer, as
    it does for every other method.
    """
    base = edits.base_of(draft)
    if base is None or all(parameter.name != "weight" for parameter in spec.parameters):
        edits.without_base(draft, keep_entries=own)
    elif scale is not None:
        if not edits.mix_base_in(draft, base, scale):
            raise PCBError(
                "weights by layer, below 0 or all 0 cannot be swept for "
                f"{name}: leave the method out (--methods), or give it plain weights "
                f"above 0 (--set {name}.weight=1)"
            )
    elif not (own and edits.lists(draft, base)):
        edits.weigh_base(draft, base, 0.0)


def _require_valid_sweep(swept: Swept, methods: Mapping[str, MergeMethod]) -> None:
    for place, values in swept.items():
        meant = [m for name, m in methods.items() if place in ("", name, m.spec.name)]
        meant += registered_methods()
        for name, tried in values.items():
            specs = [p for m in meant for p in m.spec.parameters if p.name == name]
            for value in tried:
                if isinstance(value, (list, dict)):
                    raise PCBError(
                        f"--sweep {name}: {value} differs by layer or tensor, and only "
                        "single values can be swept: give a recipe with it by --recipe"
                    )
                if specs:
                    _require_valid(specs[0], value, place or "--sweep")
                elif not isinstance(value, (int, float)):  # the scale of linear
                    raise PCBError(f"{place}: {name} is {value!r}, which is no number")


def _require_valid(parameter: ParameterSpec, value: Any, name: str) -> None:
    for single in value if isinstance(value, list) else [value]:
        if isinstance(single, dict):
            continue
        try:
            parameter.validate(single)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            if single == AUTO:
                reason = (
                    f"only pcb takes it; write pcb.{parameter.name}={AUTO} if pcb is "
                    "compared, or leave it out"
                )
            raise PCBError(
                f"{name}: {parameter.name} is {single!r}: {reason}"
            ) from error


def settings_in_words(
    draft: edits.Recipe, method: MergeMethod, setting: Mapping[str, Any]
) -> str:
    """The settings of a recipe for a method; `SCALE` is not to be seen in it."""
    specs = {parameter.name: parameter for parameter in method.spec.parameters}
    known = effective_parameters(method) - set(_NEVER_IN_LABEL)
    names = [name for name in _IN_LABEL if name in known]
    names += sorted(n for n in known if n not in names and edits.mentions(draft, n))
    words = [f"{SCALE} {setting[SCALE]:g}"] if SCALE in setting else []
    for name in names:
        default = None if specs[name].required else specs[name].default
        words.append(f"{name} {_in_words(edits.values_of(draft, name, default))}")
    return ", ".join(words)


def _in_words(values: Sequence[Any]) -> str:
    if any(isinstance(value, (list, dict)) for value in values):
        return "by layer"
    texts = [in_word(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else "/".join(texts)


def in_word(value: Any) -> str:
    """A value of a parameter as people read it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
