"""What is wrong with a recipe: the functions that other tools may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mergekit_pcb.check.rules import findings_of
from mergekit_pcb.check.rules.document import (
    MULTI,
    PYTORCH,
    WEIGHT_FILES,
    YAML,
    Document,
)
from mergekit_pcb.recipes.findings import ERROR, Finding
from mergekit_pcb.recipes.positions import Place, read

# Keys that only the recipes of other commands have at their top level.
_OTHER_COMMANDS = {"experts": "mergekit-moe", "genome": "mergekit-evolve"}
_THESE_COMMANDS = (
    "check reads those for mergekit-yaml, mergekit-multi and mergekit-pytorch"
)
_BEGIN = "begin with `merge_method:`"


class Examined(NamedTuple):
    """A recipe file as mergekit will read it.

    Attributes:
        findings: everything that is wrong, in the order of the lines.
        documents: its merges, as far as they can be read.
    """

    findings: list[Finding]
    documents: list[Document]

    @property
    def command(self) -> str:
        """The command of mergekit that takes the recipe, such as ``mergekit-yaml``."""
        kind = self.documents[0].kind if self.documents else YAML
        return f"mergekit-{kind}"


def check_recipe(text: str, file: str, kind: str = "auto") -> list[Finding]:
    """Everything that is wrong with a mergekit recipe, in the order of its lines.

    Args:
        text: The YAML, as `mergekit-yaml`, `mergekit-multi` or `mergekit-pytorch`
            reads it.
        file: What findings call the file.
        kind: The command it is for: `yaml`, `multi`, `pytorch`, or `auto` to see
            from the text.

    Example:
        >>> for finding in check_recipe("merge_method: tise", "recipe.yml"):
        ...     print(finding)
        recipe.yml:1:1: error: there is nothing to merge here; list the models ...
        recipe.yml:1:15: error: there is no merge method `tise`; did you mean `ties`?
    """
    return examine(text, file, kind).findings


def examine(text: str, file: str, kind: str = "auto") -> Examined:
    """The findings of `check_recipe`, and the merges that they are about."""
    places, findings = read(text, file)
    if findings and not places:
        return Examined(findings, [])
    if all(place.value is None for place in places):
        start = Place(file, line=1, column=1, path="", value=None)
        places = []
        findings.append(_wrong_document(start, "the recipe is empty", _BEGIN))
    roots = []
    for place in places:
        if problem := _problem(place):
            findings.append(_wrong_document(place, *problem))
        else:
            roots.append(place)
    if kind == "auto":
        kind = _inferred(roots)
    if kind != MULTI and len(roots) > 1:
        message = f"mergekit-{kind} reads one recipe a file, and this is the second"
        fix = "run mergekit-multi, or write two files"
        findings.append(_wrong_document(roots[1], message, fix))
        roots = roots[:1]
    names = [root.get("name") for root in roots] if kind == MULTI else []
    siblings = tuple(n.value for n in names if n and isinstance(n.value, str))
    documents = [Document(root, kind, siblings) for root in roots]
    findings += findings_of(documents)
    if any(finding.severity == ERROR for finding in findings):
        # Which model's configuration is taken matters once everything else is right.
        findings = [finding for finding in findings if finding.rule != "no-base"]
    # A value with a YAML alias is part of several places and is reported once.
    distinct = {(f.line, f.column, f.message): f for f in reversed(findings)}
    return Examined(sorted(distinct.values()), documents)


def _wrong_document(place: Place, message: str, fix: str) -> Finding:
    return replace(place.error(message, fix), rule="wrong-document")


def _problem(place: Place) -> tuple[str, str] | None:
    """Why a document is no recipe for these commands, and the fix."""
    if place.value is None:
        return "`---` begins one more recipe, and it is empty", "remove it"
    if not isinstance(place.value, dict):
        return "a recipe is `key: value` lines", _BEGIN
    others = [command for key, command in _OTHER_COMMANDS.items() if place.get(key)]
    if others and place.get("merge_method") is None:
        return f"this is a recipe for {others[0]}", _THESE_COMMANDS
    return None


def _inferred(roots: Sequence[Place]) -> str:
    if len(roots) > 1:
        return MULTI
    models = roots[0].items_of("models") if roots else ()
    named = [entry.get("model") for entry in models]
    all_files = all(place is not None and _is_file(place) for place in named)
    return PYTORCH if named and all_files else YAML


def _is_file(place: Place) -> bool:
    return isinstance(place.value, str) and (
        place.value.lower().endswith(WEIGHT_FILES) or Path(place.value).is_file()
    )
