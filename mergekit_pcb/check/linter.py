"""What is wrong with a recipe: the functions that other tools may use."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from mergekit_pcb.check.rules import findings_between, findings_of
from mergekit_pcb.check.rules.document import MULTI, Document
from mergekit_pcb.check.rules.kinds import documents_of
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import read


class Examined(NamedTuple):
    """A recipe file as mergekit will read it.

    Attributes:
        findings: everything that is wrong, in the order of the lines.
        documents: its merges, as far as they can be read.
    """

    findings: list[Finding]
    documents: list[Document]


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
    documents, more = documents_of(places, file, kind)
    findings += [replace(finding, rule="wrong-document") for finding in more]
    for document in documents:
        findings += findings_of(document)
    if any(document.kind == MULTI for document in documents):
        findings += findings_between(documents)
    # A value with a YAML alias is part of several places and is reported once.
    distinct = {(f.line, f.column, f.message): f for f in reversed(findings)}
    return Examined(sorted(distinct.values()), documents)
