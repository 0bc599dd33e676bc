"""Layers, shapes and modules that the models do not have, or not alike.

Of local models the `config.json` is read; weights are never opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit.architecture import ModelArchitecture, ModuleDefinition
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.config import InputSliceDefinition
from pydantic import TypeAdapter, ValidationError

from mergekit_pcb.check.rules.document import PYTORCH, Document, Input
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import did_you_mean, quoted


@dataclass(frozen=True)
class _LocalModel:
    """A model on this machine, by its ``config.json``; unknown values are None."""

    config: Mapping[str, Any]

    @property
    def architecture(self) -> ModelArchitecture | None:
        """The model's definition in mergekit; None when there is no single one."""
        names: Any = self.config.get("architectures")
        one = isinstance(names, list) and len(names) == 1
        candidates = NAME_TO_ARCH.get(names[0], []) if one else []
        if len(candidates) == 1:
            return candidates[0]
        kind = self.config.get("model_type")
        return next((c for c in candidates if c.expected_model_type == kind), None)

    @property
    def modules(self) -> Mapping[str, ModuleDefinition]:
        return self.architecture.modules if self.architecture else {}

    def layers(self, module: str | None) -> int | None:
        """How many layers the model, or one module of it, has."""
        chosen = [m for name, m in self.modules.items() if module in (None, name)]
        if len(chosen) != 1:
            return None
        return self.number(chosen[0].architecture.num_layers_config_key())

    @property
    def vocabulary(self) -> int | None:
        """How many rows the embedding has."""
        known = self.architecture.vocab_size_config_key if self.architecture else None
        return self.number(known or "vocab_size")

    def number(self, key: str) -> int | None:
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value if isinstance(value, int) else None


def _local(source: Input) -> _LocalModel | None:
    """None for a model on the hub, or one without a readable configuration."""
    path = Path(source.model.model.path, "config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return _LocalModel(config) if isinstance(config, dict) else None


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
            if problem := _outside(source, start, end, group.module):
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
    local = _local(source)
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
        local = _local(group.inputs[0])
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
        found = [(source, _local(source)) for source in group.inputs]
        local = [(source, model) for source, model in found if model is not None]
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
