"""Parameters that the method does not have, reads elsewhere, or stops without."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit.merge_methods.base import ParameterScope, ParameterSpec

from mergekit_pcb.check.rules.document import Document, Group, Input
from mergekit_pcb.plugin.unknown_parameters import unknown_parameter
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place


def blocks(document: Document) -> Iterator[tuple[Place, Group, Input | None]]:
    """Every `parameters` block, with the model it belongs to, if it does to one."""
    seen: set[int] = set()
    for group in document.groups:
        owned = [(source.settings, source) for source in group.inputs]
        for place, source in [*owned, *((shared, None) for shared in group.shared)]:
            if place is not None and id(place) not in seen:
                seen.add(id(place))
                yield place, group, source


def settings(document: Document) -> Iterator[tuple[str, Place, ParameterSpec | None]]:
    """Every parameter that is set, with the method's own description of it."""
    for block, _, _ in blocks(document):
        for name, place in block.fields.items():
            yield name, place, document.parameters.get(name)


def wrong_names(document: Document) -> Iterator[Finding]:
    """Parameters that the merge method does not have."""
    for block, _, _ in blocks(document):
        for name, key in block.keys.items():
            unknown = unknown_parameter(name, document.spec)
            if unknown is not None and not block.fields[name].anchored:
                report = key.advice if unknown.harmless else key.error
                yield report(unknown.message, unknown.fix)


def wrong_levels(document: Document) -> Iterator[Finding]:
    """Parameters at a level where the merge method does not read them."""
    for block, group, source in blocks(document):
        for name, key in block.keys.items() if source is not None else ():
            parameter = document.parameters.get(name)
            if parameter is None:
                continue
            if parameter.scope == ParameterScope.SHARED:
                yield key.error(
                    f"`{name}` is one value for all models: mergekit ignores it "
                    "under a single one",
                    "move it to the top-level `parameters:`",
                )
            elif source not in group.owners(parameter):
                yield key.advice(
                    f"`{name}` has no effect on the base model",
                    "remove it: only the other models have task vectors",
                )


def missing_parameters(document: Document) -> Iterator[Finding]:
    """Parameters without a default that the recipe does not set."""
    for group in document.groups:
        for parameter in document.parameters.values():
            if parameter.required and not group.sources(None, parameter.name):
                yield from _missing(document, group, parameter)


def _missing(
    document: Document, group: Group, parameter: ParameterSpec
) -> Iterator[Finding]:
    method = document.root.fields["merge_method"]
    name = parameter.name
    if parameter.scope == ParameterScope.SHARED:
        entries = (document.root, *(source.entry for source in group.inputs))
        if not any(_is_written(entry, name) for entry in entries):
            yield method.error(
                f"`{method.value}` needs `{name}`",
                f"write `{name}:` under the top-level `parameters:`",
            )
        return
    owners = [owner for owner in group.owners(parameter) if owner is not None]
    without = [source for source in owners if not _is_written(source.entry, name)]
    if len(without) == len(owners) > 1:
        yield without[0].place.error(
            f"`{method.value}` needs a `{name}` for every model and finds none",
            f"write `{name}:` under each model's `parameters:` or the top-level one",
        )
        return
    for source in without:
        if source.appended:
            yield source.place.error(
                f"`{method.value}` merges the base model like the others, and it has "
                f"no `{name}`",
                f"remove `base_model`, or list it among the models with a `{name}`",
            )
        else:
            yield source.place.error(
                f"`{source.model}` has no `{name}`, which `{method.value}` needs",
                f"write `{name}:` under its `parameters:`",
            )


def _is_written(entry: Place, name: str) -> bool:
    """Whether an entry sets it, or tries to, which is another finding."""
    settings = entry.get("parameters")
    if name in entry.keys or settings is None:
        return name in entry.keys
    return name in settings.keys or not isinstance(settings.value, dict)
