"""Parameter names that a merge method does not have, and what they were meant to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mergekit import merge_methods
from mergekit.config import MergeConfiguration, OutputModuleDefinition
from mergekit.merge_methods import MergeMethodSpec
from mergekit.options import MergeOptions

from mergekit_pcb.recipes.findings import ADVICE, ERROR
from mergekit_pcb.suggestions import closest, did_you_mean, quoted

Problem = tuple[str, str, str]


def parameter_problem(name: str, spec: MergeMethodSpec | None) -> Problem | None:
    """Severity, message and fix for a name under ``parameters``; None when known.

    Without a ``spec``, because the method is unknown, a name is known when any
    registered method has it.
    """
    own = [parameter.name for parameter in spec.parameters] if spec else []
    if name in own:
        return None
    elsewhere = {
        method.spec.name: parameter
        for method in merge_methods.registered_methods()
        for parameter in method.spec.parameters
        if parameter.name == name
    }
    if spec is None and elsewhere:
        return None
    subject = f"`{spec.name}` has" if spec else "merge methods have"
    message = f"{subject} no parameter `{name}`"
    if name in MergeConfiguration.model_fields:
        return ERROR, message, f"write `{name}` at the top level of the recipe"
    if name in MergeOptions.model_fields:
        return ERROR, message, f"it is an option of the command: {option(name)}"
    if elsewhere:
        owners = quoted(sorted(elsewhere)[:2])
        fix = f"remove it ({owners} {'has' if len(elsewhere) == 1 else 'have'} one)"
        # A switch pasted with a template changes nothing; a number was chosen.
        pasted = all(p.value_type is bool for p in elsewhere.values())
        return ADVICE if pasted else ERROR, message, fix
    takes = f"takes {quoted(own)}" if own else "takes no parameters"
    fix = f"`{spec.name}` {takes}" if spec else "remove it"
    return ERROR, message, did_you_mean(name, own or _all_names()) or fix


def option(name: str) -> str:
    """How the commands spell one of mergekit's options: ``--random-seed``."""
    return f"`--{name.replace('_', '-')}`"


def unknown_parameters(config: MergeConfiguration) -> list[str]:
    """One line for each parameter that the recipe's method does not have.

    mergekit drops such names in silence. Flags that only other methods have are
    left alone: recipe templates paste them everywhere, and they change nothing.
    Works on a configuration as read and as mergekit's planner rewrites it.

    Example:
        ``["`pcb` has no parameter `densty`; did you mean `density`? (in the
        parameters of org/model)"]``
    """
    spec = merge_methods.get(config.merge_method).spec
    lines: dict[str, None] = {}
    for where, parameters in _parameter_blocks(config):
        for name in parameters or ():
            problem = parameter_problem(name, spec)
            if problem is not None and problem[0] == ERROR:
                lines[f"{problem[1]}; {problem[2]} (in the parameters of {where})"] = (
                    None
                )
    return list(lines)


def _parameter_blocks(
    config: MergeConfiguration,
) -> Iterable[tuple[str, Mapping[str, Any] | None]]:
    yield "the recipe", config.parameters
    # Planning turns `models` into slices of modules; the blocks stay the same.
    # mergekit-pytorch's configuration has models only.
    holders: list[MergeConfiguration | OutputModuleDefinition] = [config]
    for module in (getattr(config, "modules", None) or {}).values():
        yield "a module", module.parameters
        holders.append(module)
    for holder in holders:
        for model in holder.models or ():
            yield str(model.model), model.parameters
        for piece in getattr(holder, "slices", None) or ():
            yield "a slice", piece.parameters
            for source in piece.sources:
                yield str(source.model), source.parameters


def _all_names() -> list[str]:
    methods = merge_methods.registered_methods()
    return sorted({p.name for method in methods for p in method.spec.parameters})


def closest_parameter(name: str, spec: MergeMethodSpec | None) -> list[str]:
    """The parameters that a misplaced or misspelt key was probably meant to be."""
    own = [parameter.name for parameter in spec.parameters] if spec else _all_names()
    return closest(name, own)
