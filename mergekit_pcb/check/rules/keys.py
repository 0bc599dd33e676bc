"""Keys that mergekit does not read where they are, and ignores without a message."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit.config import (
    ConditionalParameter,
    MergeConfiguration,
    OutputSliceDefinition,
)
from mergekit.options import MergeOptions
from pydantic import BaseModel

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.check.rules.schema import homes, typed
from mergekit_pcb.check.rules.values import is_condition
from mergekit_pcb.plugin.unknown_parameters import (
    option_hint,
    parameter_names,
    unknown_parameter,
)
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import closest, misspelt, quoted

# Declared by mergekit and read nowhere in it, as a test verifies.
DECLARED_ONLY = {(OutputSliceDefinition, "residual_weight")}


def unknown_keys(document: Document) -> Iterator[Finding]:
    """Keys that mergekit does not read where they are, and ignores."""
    for place, name, model in _unread(document):
        key = place.keys[name]
        if (model, name) in DECLARED_ONLY:
            yield key.error(f"mergekit never reads `{name}`", "remove it")
        else:
            yield key.error(*_explained(document, name, model))


def is_misspelt(document: Document, place: Place, *fields: str) -> bool:
    """Whether an unknown key of a place was probably meant to be one of ``fields``."""
    return any(
        not set(fields).isdisjoint(_meant(document, name, model))
        for holder, name, model in _unread(document)
        if holder is place
    )


def _unread(document: Document) -> Iterator[tuple[Place, str, type[BaseModel]]]:
    """Mapping, key and pydantic model of every key that is not in that model."""
    for place, model in typed(document.root, document.schema):
        # Other lines under a parameter are wrong as a whole, not key by key.
        if model is ConditionalParameter and not is_condition(place):
            continue
        for name in place.keys:
            is_read = name in model.model_fields and (model, name) not in DECLARED_ONLY
            if not is_read and not _has_a_use(document, place, name):
                yield place, name, model


def _has_a_use(document: Document, place: Place, name: str) -> bool:
    # mergekit-multi removes `name` before mergekit reads the recipe; in other recipes
    # it is a harmless label.
    if place is document.root and name == "name":
        return document.kind != PYTORCH
    # A key that only holds an anchor is YAML's way to declare a variable.
    return place.fields[name].anchored


def _meant(document: Document, name: str, model: type[BaseModel]) -> list[str]:
    """The fields that an unknown key was probably meant to be."""
    if _is_of_mergekit_yaml(document, name):
        return []
    if found := misspelt(name, model.model_fields):
        return found
    if homes(document.schema, name) or name in MergeOptions.model_fields:
        return []
    return closest(name, model.model_fields)


def _is_of_mergekit_yaml(document: Document, name: str) -> bool:
    return document.kind == PYTORCH and name in MergeConfiguration.model_fields


def _explained(
    document: Document, name: str, model: type[BaseModel]
) -> tuple[str, str]:
    """The message about an unknown key, and the fix."""
    fields = list(model.model_fields)
    message = f"mergekit ignores the key `{name}` here"
    if _is_of_mergekit_yaml(document, name):
        return f"mergekit-pytorch does not read `{name}`", "remove it"
    if "parameters" in fields and unknown_parameter(name, document.spec) is None:
        return message, "move it under `parameters:`"
    if near := _meant(document, name, model):
        return message, f"did you mean {quoted(near, 'or')}?"
    if where := homes(document.schema, name):
        if "" in where:
            return message, "move it to the top level of the recipe"
        return message, f"it is read in {quoted(where[:3], 'or')}"
    if name in MergeOptions.model_fields:
        return message, option_hint(name)
    near = closest(name, parameter_names(document.spec))
    if near and "parameters" in fields:
        return message, f"did you mean {quoted(near, 'or')}, under `parameters:`?"
    return message, f"remove it; it reads {quoted(fields)}"
