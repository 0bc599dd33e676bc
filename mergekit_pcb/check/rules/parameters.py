"""Parameter names that the method lacks, or looks for at another level."""

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
    known = {p.name: p for p in document.spec.parameters} if document.spec else {}
    for block, _, _ in blocks(document):
        for name, place in block.fields.items():
            yield name, place, known.get(name)


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
    scopes = (
        {p.name: p.scope for p in document.spec.parameters} if document.spec else {}
    )
    for block, group, source in blocks(document):
        for name, key in block.keys.items():
            if source is None:
                continue
            if scopes.get(name) == ParameterScope.SHARED:
                yield key.error(
                    f"`{name}` is one value for all models: mergekit ignores it "
                    "under a single one",
                    "move it to the top-level `parameters:`",
                )
            elif (
                scopes.get(name) == ParameterScope.NON_BASE
                and group.base is not None
                and source.model == group.base.model
            ):
                yield key.advice(
                    f"`{name}` has no effect on the base model",
                    "remove it: only the other models have task vectors",
                )
