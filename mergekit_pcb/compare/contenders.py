"""Recipes that stand beside the methods as they are, each in a row of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.compare.candidates import Candidate, settings_in_words
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.methods import find_method
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import SCOPES
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.findings import require_no_errors
from mergekit_pcb.recipes.models import located
from mergekit_pcb.recipes.reading import recipe_text


def contenders(
    files: Sequence[Path], recipe: str, inputs: Inputs, taken: Collection[str]
) -> list[Candidate]:
    """One candidate for each recipe file, which is merged as it is.

    Args:
        files: recipes for the models of ``inputs``, of any method.
        recipe: the file whose models are compared, for messages.
        inputs: its models.
        taken: names of other rows.

    Raises:
        PCBError: a file is no recipe, or it merges other models.
    """
    documents = [_document(file, recipe, inputs) for file in files]
    names = _names(files, taken)
    return [
        _contender(name, document, file)
        for name, document, file in zip(names, documents, files, strict=True)
    ]


def _document(file: Path, recipe: str, inputs: Inputs) -> edits.Recipe:
    text = recipe_text(file)
    require_no_errors(check_recipe(text, str(file), "yaml"), str(file))
    document = edits.with_absolute_paths(yaml.safe_load(text))
    base = edits.base_of(document)
    # A method that averages whole models needs no base, or lists it as one of them.
    if base is not None and base != inputs.base:
        raise PCBError(
            f"{file} has the base {base}, and {recipe} has {inputs.base}: --recipe "
            "takes recipes for the same base and models"
        )
    own = {located(entry["model"]) for entry in edits.entries(document)}
    own.discard(inputs.base)
    wanted = set(inputs.experts.values())
    if own != wanted:
        differences = [
            f"{verb} {', '.join(sorted(map(str, models)))}"
            for verb, models in (("merges", own - wanted), ("lacks", wanted - own))
            if models
        ]
        raise PCBError(
            f"{file} {' and '.join(differences)}, unlike {recipe}: --recipe takes "
            "recipes for the same base and models"
        )
    return document


def _names(files: Sequence[Path], taken: Collection[str]) -> list[str]:
    """The stems of the files, with the name of the folder where that is needed."""
    stems = [file.stem for file in files]
    names = [
        f"{file.absolute().parent.name}/{file.stem}"
        if stems.count(file.stem) > 1 or file.stem in taken
        else file.stem
        for file in files
    ]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise PCBError(
                f"{files[names.index(name)]} and {files[number]} would have one row, "
                f"{name}: give each file once, or rename one"
            )
    return names


def _contender(name: str, document: edits.Recipe, file: Path) -> Candidate:
    method = find_method(str(document["merge_method"]))
    words = [method_in_words(document), settings_in_words(document, method, {})]
    return Candidate(
        name,
        method.spec.name,
        document,
        ", ".join(filter(None, words)),
        {},
        given=str(file),
    )


def method_in_words(recipe: edits.Recipe) -> str:
    """The method of a recipe, and its scope if that is not the usual one."""
    scopes: set[Any] = set(edits.values_of(recipe, "scope", SCOPES[0]))
    method = str(recipe["merge_method"])
    other = scopes - {SCOPES[0]}
    return f"{method}:{other.pop()}" if len(scopes) == 1 and other else method
