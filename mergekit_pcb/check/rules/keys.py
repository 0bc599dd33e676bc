"""Keys that mergekit does not read where they stand; it drops them in silence."""

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

# Declared by mergekit and read nowhere in it; a test watches for the day it is.
DECLARED_ONLY = {(OutputSliceDefinition, "residual_weight")}


def unknown_keys(document: Document) -> Iterator[Finding]:
    """Every key that is not in the pydantic model mergekit reads it into."""
    for place, model in typed(document.root, document.schema):
        # Other lines under a parameter are wrong as a whole, not key by key.
        if model is ConditionalParameter and not is_condition(place):
            continue
        for name, key in place.keys.items():
            if (model, name) in DECLARED_ONLY:
                yield key.error(f"mergekit never reads `{name}`", "remove it")
            elif name not in model.model_fields and not _has_a_use(
                document, place, name
            ):
                yield _explained(document, key, name, model)


def _has_a_use(document: Document, place: Place, name: str) -> bool:
    # mergekit-multi takes `name` off before mergekit sees the recipe; elsewhere it
    # labels a recipe and misleads nobody.
    if place is document.root and name == "name":
        return document.kind != PYTORCH
    # A key that only holds an anchor is YAML's way to declare a variable.
    return place.fields[name].anchored


def _explained(
    document: Document, key: Place, name: str, model: type[BaseModel]
) -> Finding:
    fields = list(model.model_fields)
    message = f"mergekit ignores the key `{name}` here"
    if document.kind == PYTORCH and name in MergeConfiguration.model_fields:
        return key.error(f"mergekit-pytorch does not read `{name}`", "remove it")
    if "parameters" in fields and unknown_parameter(name, document.spec) is None:
        return key.error(message, "move it under `parameters:`")
    found = misspelt(name, fields)
    if not found and (where := homes(document.schema, name)):
        if "" in where:
            return key.error(message, "move it to the top level of the recipe")
        return key.error(message, f"it is read in {quoted(where[:3], 'or')}")
    if not found and name in MergeOptions.model_fields:
        return key.error(message, option_hint(name))
    if found := found or closest(name, fields):
        return key.error(message, f"did you mean {quoted(found, 'or')}?")
    if "parameters" in fields and (
        near := closest(name, parameter_names(document.spec))
    ):
        return key.error(
            message, f"did you mean {quoted(near, 'or')}, under `parameters:`?"
        )
    return key.error(message, f"remove it; it reads {quoted(fields)}")
