"""Names under `parameters` that a merge method does not have.

mergekit ignores such names without a message, so `densty: 0.2` would merge with the
default density.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mergekit import merge_methods
from mergekit.config import MergeConfiguration, OutputModuleDefinition
from mergekit.merge_methods import MergeMethodSpec
from mergekit.options import MergeOptions

from mergekit_pcb.suggestions import did_you_mean, quoted


@dataclass(frozen=True)
class UnknownParameter:
    """A name that a method does not have.

    Attributes:
        message: what is wrong.
        fix: what to write instead.
        harmless: the name is an on/off switch of other methods. Recipe templates set
            those for every method, and leaving them out changes nothing.
    """

    message: str
    fix: str
    harmless: bool = False


def unknown_parameter(
    name: str, spec: MergeMethodSpec | None
) -> UnknownParameter | None:
    """What is wrong with a name under ``parameters``; None when the method has it.

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
        return UnknownParameter(
            message, f"write `{name}` at the top level of the recipe"
        )
    if name in MergeOptions.model_fields:
        return UnknownParameter(message, option_hint(name))
    if elsewhere:
        owners = quoted(sorted(elsewhere)[:2])
        fix = f"remove it ({owners} {'has' if len(elsewhere) == 1 else 'have'} one)"
        switches = all(p.value_type is bool for p in elsewhere.values())
        return UnknownParameter(message, fix, harmless=switches)
    takes = f"takes {quoted(own)}" if own else "takes no parameters"
    fix = f"`{spec.name}` {takes}" if spec else "remove it"
    return UnknownParameter(message, did_you_mean(name, parameter_names(spec)) or fix)


def parameter_names(spec: MergeMethodSpec | None) -> list[str]:
    """The parameters of a method; without one, those of all methods."""
    if spec is not None:
        return [parameter.name for parameter in spec.parameters]
    methods = merge_methods.registered_methods()
    return sorted({p.name for method in methods for p in method.spec.parameters})


def option_hint(name: str) -> str:
    """The fix for a key that is an option of mergekit's commands: ``--random-seed``."""
    return f"it is an option of the command: `--{name.replace('_', '-')}`"


def unknown_parameters(config: MergeConfiguration) -> list[str]:
    """One line for each parameter that the recipe's method does not have.

    Harmless ones are left out. Works on a configuration as read and as mergekit's
    planner rewrites it.

    Example:
        ``["`pcb` has no parameter `densty`; did you mean `density`? (in the
        parameters of org/model)"]``
    """
    spec = merge_methods.get(config.merge_method).spec
    lines: dict[str, None] = {}
    for where, parameters in _parameter_blocks(config):
        for name in parameters or ():
            unknown = unknown_parameter(name, spec)
            if unknown is not None and not unknown.harmless:
                problem = f"{unknown.message}; {unknown.fix}"
                lines[f"{problem} (in the parameters of {where})"] = None
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
