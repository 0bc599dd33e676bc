"""The rules of `mergekit-pcb check`, one idea a file.

A rule takes a recipe and yields what is wrong with it. It knows mergekit's rules
from mergekit itself: keys from its pydantic models, parameters from its registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mergekit_pcb.check.rules import (
    filters,
    habits,
    inputs,
    keys,
    layers,
    models,
    multi,
    output,
    parameters,
    required,
    shapes,
    structure,
    values,
)
from mergekit_pcb.check.rules.document import Document
from mergekit_pcb.recipes.findings import Finding

Rule = Callable[[Document], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    keys.unknown_keys,
    inputs.unknown_method,
    structure.one_kind_of_input,
    structure.empty_slices,
    models.wrong_references,
    inputs.broken_contract,
    required.missing_parameters,
    inputs.base_as_input,
    inputs.same_model_spelt_twice,
    parameters.wrong_names,
    parameters.wrong_levels,
    values.wrong_shapes,
    values.wrong_values,
    filters.uncovered,
    filters.wrong_filters,
    layers.wrong_layer_ranges,
    shapes.different_models,
    shapes.unknown_modules,
    output.wrong_dtypes,
    output.wrong_tokenizers,
    output.wrong_chat_template,
    habits.densities,
    habits.flags,
    habits.weights,
    habits.union_tokenizer,
)

FILE_RULES = (multi.wrong_names, multi.names_in_other_places, multi.cycles)


def findings_of(document: Document) -> Iterator[Finding]:
    """Everything that is wrong with one recipe."""
    found = [finding for rule in RULES for finding in rule(document)]
    yield from found
    yield from structure.refused(document, found)


def findings_between(documents: Sequence[Document]) -> Iterator[Finding]:
    """What is wrong between the merges of one file."""
    for rule in FILE_RULES:
        yield from rule(documents)
