"""Which of mergekit's commands a file is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mergekit_pcb.check.rules.document import MULTI, PYTORCH, YAML, Document
from mergekit_pcb.recipes.findings import ERROR, Finding
from mergekit_pcb.recipes.positions import Place

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

# Keys that only the recipes of other commands have at their top level.
_OTHER_COMMANDS = {"experts": "mergekit-moe", "genome": "mergekit-evolve"}
_THESE_COMMANDS = (
    "check reads those for mergekit-yaml, mergekit-multi and mergekit-pytorch"
)
_BEGIN = "begin with `merge_method:`"


def documents_of(
    places: Sequence[Place], file: str, kind: str
) -> tuple[list[Document], list[Finding]]:
    """The recipes of a file, and what keeps it from being one for its command."""
    if all(place.value is None for place in places):
        return [], [Finding(file, 1, 1, ERROR, "the recipe is empty", _BEGIN)]
    problems = [_problem(place) for place in places]
    read = list(zip(places, problems, strict=True))
    findings = [place.error(*problem) for place, problem in read if problem]
    roots = [place for place, problem in read if not problem]
    if kind == "auto":
        kind = _inferred(roots)
    if kind != MULTI and len(roots) > 1:
        findings.append(
            roots[1].error(
                f"mergekit-{kind} reads one recipe a file, and this is the second",
                "run mergekit-multi, or write two files",
            )
        )
        roots = roots[:1]
    names = [root.get("name") for root in roots] if kind == MULTI else []
    siblings = tuple(n.value for n in names if n and isinstance(n.value, str))
    return [Document(root, kind, siblings) for root in roots], findings


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
    for root in roots:
        models = root.get("models")
        named = [entry.get("model") for entry in models.items] if models else []
        if named and all(place is not None and _is_file(place) for place in named):
            return PYTORCH
    return YAML


def _is_file(place: Place) -> bool:
    return isinstance(place.value, str) and (
        place.value.lower().endswith(WEIGHT_FILES) or Path(place.value).is_file()
    )
