"""What a method wants to merge: how many models, with or without a base."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mergekit import merge_methods
from mergekit.common import ModelReference
from mergekit.merge_methods import BasePolicy, MergeMethodSpec, ParameterScope

from mergekit_pcb.check.rules.document import PYTORCH, Document, Group, Input
from mergekit_pcb.check.rules.structure import is_misspelt
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.models import in_one_line, located
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import did_you_mean, quoted

_SLICE = re.compile(r"slices\[\d+\]$")


def unknown_method(document: Document) -> Iterator[Finding]:
    """A merge method that is not in mergekit's registry."""
    place = document.root.get("merge_method")
    if place is None or document.method or not isinstance(place.value, str):
        return
    names = sorted(method.spec.name for method in merge_methods.registered_methods())
    yield place.error(
        f"there is no merge method `{place.value}`",
        did_you_mean(place.value, names) or f"choose {quoted(names, 'or')}",
    )


def broken_contract(document: Document) -> Iterator[Finding]:
    """Too many or too few models for the method, a missing base, or one too many."""
    if document.method is None:
        return
    for group in document.groups:
        yield from _listed_twice(group)
        models = list(dict.fromkeys(source.model for source in group.inputs))
        base = group.base.model if group.base else None
        try:
            document.method.validate_inputs(models, base)
        except Exception as error:  # a method may raise what it likes
            yield from _explained(document, group, error)


def _listed_twice(group: Group) -> Iterator[Finding]:
    first: dict[object, Place] = {}
    for source in group.inputs:
        if source.model in first:
            yield source.place.error(
                f"`{source.model}` is listed twice, first on line "
                f"{first[source.model].line}, and mergekit stops",
                "remove one of them, or give it the weight of both",
            )
        first.setdefault(source.model, source.place)


def _explained(document: Document, group: Group, error: Exception) -> Iterator[Finding]:
    assert document.spec is not None
    name, contract, base = document.spec.name, document.spec.contract, group.base
    if contract.base == BasePolicy.REQUIRED and base is None:
        if not _base_misplaced(document):
            # A method for two merges one of them into the other.
            which = (
                "one of the two models"
                if contract.max_inputs == 2
                else "the model that the others were made from"
            )
            yield document.root.fields["merge_method"].error(
                f"`{name}` needs a base model", f"write `base_model:` with {which}"
            )
    elif contract.base == BasePolicy.FORBIDDEN and base is not None:
        yield base.place.error(f"`{name}` takes no base model", "remove `base_model`")
    # In slices mergekit appends nothing: the base must be one of the sources.
    elif (
        contract.base != BasePolicy.IGNORED
        and base is not None
        and all(source.model != base.model for source in group.inputs)
    ):
        yield group.place.error(
            f"the base model `{base.model}` is not among the sources of this slice",
            "add it to `sources:` with its own `layer_range`",
        )
    elif counted := _miscounted(document.spec, group):
        yield group.place.error(*counted)
    else:
        yield group.place.error(f"`{name}` refuses these models: {error}")


def _base_misplaced(document: Document) -> bool:
    """Whether an unknown key is `base_model`, or was probably meant to be."""
    return is_misspelt(document, document.root, "base_model") or any(
        "base_model" in place.keys
        for place in document.root.walk()
        if place is not document.root and not _SLICE.search(place.path)
    )


def _miscounted(spec: MergeMethodSpec, group: Group) -> tuple[str, str] | None:
    """The message about too many or too few models, and the fix."""
    contract = spec.contract
    based = contract.base != BasePolicy.IGNORED and group.base is not None
    all_limits = (group.inputs, contract.min_inputs, contract.max_inputs)
    others = group.non_base if based else group.inputs
    other_limits = (others, contract.min_non_base or 0, contract.max_non_base)
    for (models, low, high), counted in (
        (all_limits, ", the base included"),
        (other_limits, " beside the base"),
    ):
        count = len(models)
        if count >= low and (high is None or count <= high):
            continue
        bound = f"at least {low}" if count < low else f"at most {high}"
        number = f"exactly {low}" if low == high else bound
        takes = f"{number} model{'s' * (not number.endswith(' 1'))}"
        takes += counted if based else ""
        fix = "remove a model, or choose a method for more"
        if count < low:
            fix = "add a model"
        elif high == 1 and any(source.appended for source in group.inputs):
            fix = "remove `base_model`, which mergekit adds to the models"
        elif high == 1:
            fix = "give each model a slice of its own"
        return f"`{spec.name}` takes {takes}; got {count}", fix
    return None


def no_base(document: Document) -> Iterator[Finding]:
    """No model named whose configuration and tokenizer the merged model gets."""
    spec, method = document.spec, document.root.get("merge_method")
    if spec is None or method is None or document.kind == PYTORCH:
        return
    # Who stacks slices of several models writes the configuration by hand.
    whole = [group for group in document.groups if group.slice is None]
    models = [source for group in whole for source in group.inputs]
    distinct = {source.model for source in models}
    if (
        spec.contract.base == BasePolicy.IGNORED
        and "base_model" not in document.root.keys
        and len(distinct) > 1
        and not is_misspelt(document, document.root, "base_model")
        and (document.tokenizer is None or document.tokenizer.value != "base")
    ):
        yield method.advice(
            "without `base_model`, mergekit takes the configuration and the tokenizer "
            "of any of the models",
            f"write `base_model: {in_one_line(models[0].model)}`, or another of them",
        )


def base_as_input(document: Document) -> Iterator[Finding]:
    """A base model that a method without a base merges like any other."""
    spec = document.spec
    if spec is None or spec.contract.base != BasePolicy.IGNORED:
        return
    # If a parameter is missing for it, or it is one model too many, that is a finding.
    needs = any(p.required and p.scope == ParameterScope.INPUT for p in spec.parameters)
    for group in document.groups:
        for source in group.inputs:
            if source.appended and spec.contract.max_inputs is None and not needs:
                yield source.place.advice(
                    f"`{spec.name}` has no base: mergekit merges `{source.model}` "
                    "like the others",
                    "list it among the models, or write one of them as `base_model`",
                )


def same_model_spelt_twice(document: Document) -> Iterator[Finding]:
    """Two spellings of one model, which mergekit takes for two."""
    for group in document.groups:
        first: dict[ModelReference, Input] = {}
        for source in group.inputs:
            other = first.setdefault(_folded(document, source.model), source)
            if other.model != source.model:
                yield source.place.advice(
                    f"`{source.model}` and `{other.model}` on line {other.place.line} "
                    "look like one model, and mergekit takes them for two",
                    "write both alike",
                )


def _folded(document: Document, model: ModelReference) -> ModelReference:
    """A model as every spelling of it is read."""
    found = located(model)
    path = found.model
    if path != model.model or document.kind == PYTORCH or Path(path.path).exists():
        return found
    name = path.path.removeprefix("./").rstrip("/").casefold()
    revision = None if path.revision == "main" else path.revision
    folded = path.model_copy(update={"path": name, "revision": revision})
    return found.model_copy(update={"model": folded})
