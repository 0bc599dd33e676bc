"""Layers, shapes and modules that the models do not have, or not alike.

Of local models the `config.json` is read; weights are never opened.
"""

from __future__ import annotations

from collections.abc import Iterator

from mergekit.config import InputSliceDefinition
from pydantic import TypeAdapter, ValidationError

from mergekit_pcb.check.rules.document import PYTORCH, Document, Input
from mergekit_pcb.check.rules.local_models import local_model
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import did_you_mean, quoted


def wrong_layer_ranges(document: Document) -> Iterator[Finding]:
    """Layer ranges that are empty, too long for the model, or of unequal length."""
    pair: TypeAdapter[tuple[int, int]] = TypeAdapter(
        InputSliceDefinition.__annotations__["layer_range"]
    )
    for group in document.groups:
        first: tuple[int, Place] | None = None
        for source in group.inputs if group.slice else ():
            place = source.entry.get("layer_range")
            if place is None:
                continue
            try:
                start, end = pair.validate_python(place.value)
            except ValidationError:
                continue  # a broken shape is a finding of its own
            if problem := _outside(document, source, (start, end), group.module):
                yield place.error(*problem)
                continue
            length, other = first = first or (end - start, place)
            if end - start != length:
                yield place.error(
                    f"{end - start} layers here and {length} on line {other.line}: all "
                    "sources of a slice take equally many",
                    "make the ranges equally long",
                )


def _outside(
    document: Document, source: Input, layers: tuple[int, int], module: str | None
) -> tuple[str, str] | None:
    start, end = layers
    if start < 0 or end < 0:
        return f"layers count from 0, got [{start}, {end}]", "write the layer's number"
    if start >= end:
        meant = [end, start] if start > end else [start, end + 1]
        return (
            f"[{start}, {end}] holds no layer: the end is not included",
            f"write `{meant}`",
        )
    local = local_model(document, source.model)
    count = local.layers(module) if local else None
    if count is not None and end > count:
        return (
            f"[{start}, {end}] goes beyond `{source.model}`, which has {count} layers",
            f"write `[{start}, {count}]`" if start < count else f"end at {count}",
        )
    return None


def unknown_modules(document: Document) -> Iterator[Finding]:
    """Modules that mergekit's definition of a local model does not have."""
    for group in document.groups:
        local = local_model(document, group.inputs[0].model)
        known = local.modules if local else {}
        if group.module is not None and known and group.module not in known:
            key = document.root.fields["modules"].keys[group.module]
            yield key.error(
                f"`{group.inputs[0].model}` has no module `{group.module}`",
                did_you_mean(group.module, known) or f"it has {quoted(list(known))}",
            )


def different_models(document: Document) -> Iterator[Finding]:
    """Local models whose layers, widths or vocabularies differ."""
    aligned = any(document.root.get(k) for k in ("tokenizer_source", "tokenizer"))
    for group in document.groups if document.kind != PYTORCH else ():
        found = [(s, local_model(document, s.model)) for s in group.inputs]
        local = [(source, model) for source, model in found if model and model.config]
        for source, model in local[1:]:
            first, known = local[0]
            numbers = {
                "layers": [m.layers(group.module) for m in (model, known)],
                "hidden dimensions": [m.number("hidden_size") for m in (model, known)],
                "tokens": [model.vocabulary, known.vocabulary],
            }
            if group.slice is not None:
                del numbers["layers"]
            if aligned or not group.has_vocabulary:
                del numbers["tokens"]
            for what, (own, other) in numbers.items():
                if None in (own, other) or own == other:
                    continue
                message = f"`{source.model}` has {own} {what}, `{first.model}` {other}"
                fix = "models of different shapes cannot be merged"
                if what == "tokens":
                    message += ", and nothing aligns them"
                    fix = "write `tokenizer_source: base`, or `union`"
                yield source.place.error(message, fix)
