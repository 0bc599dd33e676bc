"""Parameters without a default that the recipe does not set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mergekit.merge_methods.base import ParameterScope

from mergekit_pcb.check.rules.document import Document, Group, Input
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place


def missing_parameters(document: Document) -> Iterator[Finding]:
    """Parameters without a default that the recipe does not set."""
    spec = document.spec
    required = [p for p in spec.parameters if p.required] if spec else []
    for group in document.groups:
        for parameter in required:
            if parameter.scope == ParameterScope.SHARED:
                yield from _shared(document, group, parameter.name)
            elif parameter.scope == ParameterScope.INPUT:
                yield from _per_model(document, group, group.inputs, parameter.name)
            else:
                yield from _per_model(document, group, group.non_base, parameter.name)


def _shared(document: Document, group: Group, name: str) -> Iterator[Finding]:
    entries = (document.root, *(source.entry for source in group.inputs))
    if group.sources(None, name) or any(_misplaced(entry, name) for entry in entries):
        return
    method = document.root.fields["merge_method"]
    yield method.error(
        f"`{method.value}` needs `{name}`",
        f"write `{name}:` under the top-level `parameters:`",
    )


def _misplaced(entry: Place, name: str) -> bool:
    """Whether the parameter stands where mergekit does not look, a finding itself."""
    settings = entry.get("parameters")
    if name in entry.keys or settings is None:
        return name in entry.keys
    return name in settings.keys or not isinstance(settings.value, dict)


def _per_model(
    document: Document, group: Group, wanting: Sequence[Input], name: str
) -> Iterator[Finding]:
    method = document.root.fields["merge_method"].value
    without = [
        source
        for source in wanting
        if not group.sources(source, name) and not _misplaced(source.entry, name)
    ]
    if len(without) == len(wanting) > 1:
        yield without[0].place.error(
            f"`{method}` needs a `{name}` for every model and finds none",
            f"write `{name}:` under each model's `parameters:` or the top-level one",
        )
        return
    for source in without:
        if source.appended:
            yield source.place.error(
                f"`{method}` merges the base model like the others, and it has no "
                f"`{name}`",
                f"remove `base_model`, or list it among the models with a `{name}`",
            )
        else:
            yield source.place.error(
                f"`{source.model}` has no `{name}`, which `{method}` needs",
                f"write `{name}:` under its `parameters:`",
            )
