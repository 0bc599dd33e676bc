"""Layer ranges: what a slice can take from each model."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit.config import InputSliceDefinition
from pydantic import TypeAdapter, ValidationError

from mergekit_pcb.check.rules.document import Document, Group, Input
from mergekit_pcb.check.rules.folders import folder_of
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place


def wrong_layer_ranges(document: Document) -> Iterator[Finding]:
    """Layer ranges that are empty, too long for the model, or of unequal length."""
    for group in document.groups:
        if group.slice is None:
            continue
        first: tuple[int, Place] | None = None
        for source, place, (start, end) in _ranges(group):
            if problem := _problem(source, start, end, group.module):
                yield place.error(*problem)
                continue
            length, other = first = first or (end - start, place)
            if end - start != length:
                yield place.error(
                    f"{end - start} layers here and {length} on line {other.line}: all "
                    "sources of a slice take equally many",
                    "make the ranges equally long",
                )


def _ranges(group: Group) -> Iterator[tuple[Input, Place, tuple[int, int]]]:
    kind: TypeAdapter[tuple[int, int]] = TypeAdapter(
        InputSliceDefinition.__annotations__["layer_range"]
    )
    sources = group.slice.get("sources") if group.slice else None
    for source, entry in zip(
        group.inputs, sources.items if sources else (), strict=True
    ):
        place = entry.get("layer_range")
        if place is None:
            continue
        try:
            yield source, place, kind.validate_python(place.value)
        except ValidationError:
            continue  # a broken shape is a finding of its own


def _problem(
    source: Input, start: int, end: int, module: str | None
) -> tuple[str, str] | None:
    if start < 0 or end < 0:
        return f"layers count from 0, got [{start}, {end}]", "write the layer's number"
    if start >= end:
        meant = [end, start] if start > end else [start, end + 1]
        return (
            f"[{start}, {end}] holds no layer: the end is not included",
            f"write `{meant}`",
        )
    folder = folder_of(source.model)
    count = folder.layers(module) if folder else None
    if count is not None and end > count:
        return (
            f"[{start}, {end}] goes beyond `{source.model}`, which has {count} layers",
            f"write `[{start}, {count}]`" if start < count else f"end at {count}",
        )
    return None
