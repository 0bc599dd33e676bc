"""A recipe of another merge method, as the `pcb` recipe that means the same.

Which models, layers and tensors are merged stays, and so does how much each model is
to count beside the others. What belongs to the other method's arithmetic goes: its
density keeps the largest or random changes, where that of PCB says in how many
coordinates a model competes; and its lambda was chosen for sums or means, where PCB
has `auto`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mergekit import merge_methods
from mergekit.common import ModelReference
from mergekit.merge_methods import BasePolicy, MergeMethodSpec

from mergekit_pcb.check.linter import Examined, examine
from mergekit_pcb.convert.comments import (
    about_the_rest,
    about_weights,
    comment_of,
    settings_of,
)
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.findings import ERROR, Finding, require_no_errors
from mergekit_pcb.recipes.layout import in_yaml, with_values
from mergekit_pcb.recipes.models import as_written, in_one_line, located, named
from mergekit_pcb.suggestions import quoted


class Converted(NamedTuple):
    """A converted recipe.

    Attributes:
        text: YAML.
        findings: what `check` says of it; advice only.
        command: of mergekit, that takes it.
    """

    text: str
    findings: list[Finding]
    command: str


def convert_recipe(text: str, file: str, base: str | None = None) -> Converted:
    """Write a recipe of another method as the `pcb` recipe that means the same.

    Args:
        text: the recipe, or several for mergekit-multi.
        file: what messages call it.
        base: the model that the others were fine-tuned from, for methods whose
            recipes need not name it, such as `linear`.

    Raises:
        PCBError: the recipe is wrong, its method does not combine any number of
            models, or what it says cannot be said to PCB.
    """
    examined = examine(text, file)
    _require_right(examined, file)
    roots = [document.root.value for document in examined.documents]
    specs = [_require_spec(document.spec) for document in examined.documents]
    convertible = [
        pair for pair in zip(roots, specs, strict=True) if _is_convertible(pair[1])
    ]
    if not convertible:
        raise PCBError(f"{file}: {_why_not(specs, file)}")
    if base is not None and all(_names_base(*pair) for pair in convertible):
        raise PCBError(f"{file} names its base model already: leave out --base")
    recipes: list[edits.Recipe] = []
    comments = []
    for root, spec in zip(roots, specs, strict=True):
        recipe = copy.deepcopy(root)
        comment = ""
        if _is_convertible(spec):
            comment = comment_of(spec.name, _convert(recipe, spec, base, file))
        recipes.append(recipe)
        comments.append(comment)
    new = with_values(text, recipes, comments)
    if new is None:
        if "#" in text:
            lost = "Written anew, without the comments of the recipe it was made from."
            comments[0] = f"{lost}\n{comments[0]}".rstrip()
        new = in_yaml(recipes, comments)
    return _checked(new, file, examined.documents[0].kind)


def _require_right(examined: Examined, file: str) -> None:
    """Refuse a recipe with errors other than those that a conversion removes."""
    # The base of a linear merge that is not among its models has no weight.
    removed = {("missing-parameter", "base_model")}
    kept = [f for f in examined.findings if (f.rule, f.path) not in removed]
    require_no_errors(kept, file)


def _require_spec(spec: MergeMethodSpec | None) -> MergeMethodSpec:
    assert spec is not None, "check refuses an unknown method"
    return spec


def _is_convertible(spec: MergeMethodSpec) -> bool:
    """Whether a method combines any number of models, as PCB does."""
    contract = spec.contract
    any_number = contract.max_inputs is None and contract.max_non_base is None
    return any_number and spec.name != "pcb"


def _why_not(specs: Sequence[MergeMethodSpec], file: str) -> str:
    names = list(dict.fromkeys(spec.name for spec in specs))
    if names == ["pcb"]:
        return f"this is a `pcb` recipe already: run `mergekit-pcb check {file}`"
    methods = [method.spec for method in merge_methods.registered_methods()]
    known = sorted(spec.name for spec in methods if _is_convertible(spec))
    other = next(name for name in names if name != "pcb")
    return (
        f"`{other}` is for one or two models, and nothing in PCB means the same; "
        f"convert reads {quoted(known)}"
    )


def _checked(text: str, file: str, kind: str) -> Converted:
    result = examine(text, file, kind)
    for finding in result.findings:
        if finding.severity == ERROR:
            raise PCBError(f"{file}, as a pcb recipe: {finding.message}; {finding.fix}")
    return Converted(text, result.findings, result.command)


def _convert(
    recipe: edits.Recipe, spec: MergeMethodSpec, base: str | None, file: str
) -> list[str]:
    """Change a recipe in place; returns what to say of it."""
    notes = list(_settle_base(recipe, spec, base, file))
    _require_no_negative_weights(recipe, spec.name, file)
    found = settings_of(recipe)
    weights = edits.values_of(recipe, "weight", 1.0)
    recipe["merge_method"] = "pcb"
    kept = not _only_a_factor(weights)
    edits.drop_unknown(recipe, {"weight"} if kept else set())
    _drop_parameters_of_base(recipe)
    _drop_empty(recipe)
    notes += about_weights(weights, mentioned="weight" in found, kept=kept)
    return notes + list(about_the_rest(found, spec.name))


def _names_base(recipe: edits.Recipe, spec: MergeMethodSpec) -> bool:
    """Whether the recipe's `base_model` is what task vectors are differences to."""
    return spec.contract.base != BasePolicy.IGNORED and bool(edits.base_of(recipe))


def _settle_base(
    recipe: edits.Recipe, spec: MergeMethodSpec, wanted: str | None, file: str
) -> Iterator[str]:
    """Make sure that the base is the model that the others were fine-tuned from."""
    if _names_base(recipe, spec):
        return
    before = edits.base_of(recipe)
    given = None if wanted is None else named(wanted)
    if given is None and before is None:
        raise PCBError(
            f"{file} names no base model, which PCB needs: give the model that the "
            "others were fine-tuned from by --base MODEL"
        )
    if given is None:
        assert before is not None
        given = before
        if edits.lists(recipe, before):
            raise PCBError(
                f"{file}: `{spec.name}` merges its base_model, {in_one_line(before)}, "
                "like the others, so it may be one of the fine-tunes: give the model "
                "that the others were fine-tuned from by --base MODEL"
            )
    if before is not None and located(given) != before:
        written = in_one_line(before)
        yield (
            f"base_model: {written} before. PCB needs the model that the others were "
            "fine-tuned from. The configuration now comes from it too, and so does "
            f"the tokenizer, unless the recipe names another."
        )
    if before is None or located(given) != before:
        edits.without_base(recipe, keep_entries=True)
        recipe["base_model"] = as_written(given)
    _require_equal_layers(recipe, given, file)
    # mergekit compares models by what is written.
    edits.add_base_to_slices(recipe, recipe.get("base_model", as_written(given)))


def _require_equal_layers(
    recipe: edits.Recipe, base: ModelReference, file: str
) -> None:
    for entries in edits.groups(recipe):
        layers = [entry.get("layer_range") for entry in entries]
        if not _all_equal(layers) and not any(_is(e, located(base)) for e in entries):
            raise PCBError(
                f"{file}: a slice takes other layers from each model, so those of the "
                f"base are not known: add `model: {in_one_line(base)}` to its "
                "`sources:`, with its `layer_range` and `weight: 0`"
            )


def _require_no_negative_weights(recipe: edits.Recipe, method: str, file: str) -> None:
    for weight in edits.values_of(recipe, "weight", 1.0):
        for number in edits.numbers(weight):
            if number < 0:
                raise PCBError(
                    f"{file}: a weight of {number:g} takes a model away, and in PCB it "
                    "would first win coordinates from the others: leave the model "
                    f"out, or stay with `{method}`"
                )


def _only_a_factor(weights: Sequence[Any]) -> bool:
    """Whether weights are the same for all models, and 0 nowhere.

    Such weights change nothing with ``lambda: auto``. Where all are 0, the base stays.
    """
    return _all_equal(weights) and all(map(all, map(edits.numbers, weights[:1])))


def _all_equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def _drop_parameters_of_base(recipe: edits.Recipe) -> None:
    base = edits.base_of(recipe)
    for entries in edits.groups(recipe):
        for entry in entries:
            if _is(entry, base):
                entry.pop("parameters", None)


def _is(entry: edits.Recipe, model: ModelReference | None) -> bool:
    return located(entry["model"]) == model


def _drop_empty(place: Any) -> None:
    """Remove `parameters` that are left without any."""
    if isinstance(place, dict):
        if "parameters" in place and not place["parameters"]:
            del place["parameters"]
        for inner in place.values():
            _drop_empty(inner)
    elif isinstance(place, list):
        for inner in place:
            _drop_empty(inner)
