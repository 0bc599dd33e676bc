"""The rules of `mergekit-pcb check`, one idea a file.

A rule takes a recipe and yields what is wrong with it. It knows mergekit's rules
from mergekit itself: keys from its pydantic models, parameters from its registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from mergekit_pcb.check.rules import (
    checkpoints,
    densities,
    filters,
    habits,
    inputs,
    models,
    multi,
    output,
    parameters,
    shapes,
    structure,
    values,
    whole_model,
)
from mergekit_pcb.check.rules.document import MULTI, Document
from mergekit_pcb.recipes.findings import Finding

Subject = TypeVar("Subject", Document, Sequence[Document])

_RULES: dict[str, Callable[[Document], Iterator[Finding]]] = {
    "unknown-key": structure.unknown_keys,
    "misplaced-parameter": structure.misplaced_parameters,
    "unknown-method": inputs.unknown_method,
    "model-lists": structure.one_kind_of_input,
    "empty-slice": structure.empty_slices,
    "model-reference": models.wrong_references,
    "refused-inputs": inputs.broken_contract,
    "missing-parameter": parameters.missing_parameters,
    "base-as-input": inputs.base_as_input,
    "two-spellings": inputs.same_model_spelt_twice,
    "unknown-parameter": parameters.wrong_names,
    "parameter-level": parameters.wrong_levels,
    "value-form": values.wrong_shapes,
    "refused-value": values.wrong_values,
    "uncovered-tensors": filters.uncovered,
    "filter": filters.wrong_filters,
    "layer-range": shapes.wrong_layer_ranges,
    "different-models": shapes.different_models,
    "unknown-module": shapes.unknown_modules,
    "damaged-files": checkpoints.damaged,
    "quantised": checkpoints.quantised,
    "base-lacks-tensor": checkpoints.base_lacks,
    "dropped-tensors": checkpoints.dropped,
    "dtype": output.wrong_dtypes,
    "tokenizer": output.wrong_tokenizers,
    "chat-template": output.wrong_chat_template,
    "density": densities.densities,
    "epsilon": densities.epsilons,
    "varying-option": whole_model.varying_options,
    "statistics-file": whole_model.statistics_files,
    "zero-lambda": whole_model.zero_lambda,
    "no-effect": habits.flags,
    "weight-sum": habits.weights,
    "union-tokenizer": habits.union_tokenizer,
    "list-by-model": habits.lists_by_model,
    "no-base": inputs.no_base,
}
_FILE_RULES: dict[str, Callable[[Sequence[Document]], Iterator[Finding]]] = {
    "merge-name": multi.wrong_names,
    "merge-name-elsewhere": multi.names_in_other_places,
    "merge-cycle": multi.cycles,
}

RULES = {
    "not-text": "A file that is no text, or too large for a recipe.",
    "unreadable": "Models in folders that may not be looked into.",
    "yaml-syntax": "Text that is not valid YAML.",
    "duplicate-key": "Keys that are written twice, of which the last counts.",
    "wrong-document": "Documents that are empty, too many, or for another command.",
    **{
        rule: (function.__doc__ or "").partition("\n")[0]
        for rule, function in (*_RULES.items(), *_FILE_RULES.items())
    },
    "schema": "Anything else that mergekit's own pydantic models refuse.",
}
"""Id and description of every rule; a `Finding` carries the id."""


def findings_of(documents: Sequence[Document]) -> list[Finding]:
    """Everything that is wrong with the recipes of one file."""
    found: list[Finding] = []
    for document in documents:
        own = _apply(_RULES, document)
        refused = structure.refused(document, own)
        found += own + [replace(finding, rule="schema") for finding in refused]
    if documents and documents[0].kind == MULTI:
        found += _apply(_FILE_RULES, documents)
    return found


def _apply(
    rules: Mapping[str, Callable[[Subject], Iterator[Finding]]], subject: Subject
) -> list[Finding]:
    return [
        replace(finding, rule=rule)
        for rule, function in rules.items()
        for finding in function(subject)
    ]
