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


def documents_of(
    places: Sequence[Place], file: str, kind: str
) -> tuple[list[Document], list[Finding]]:
    """The recipes of a file, and what keeps it from being one for its command."""
    if all(place.value is None for place in places):
        empty = Finding(file, 1, 1, ERROR, "the recipe is empty", _BEGIN)
        return [], [empty]
    findings = []
    roots = []
    for place in places:
        if place.value is None:
            problem = "`---` begins one more recipe, and it is empty"
            findings.append(place.error(problem, "remove it"))
        elif not isinstance(place.value, dict):
            findings.append(place.error("a recipe is `key: value` lines", _BEGIN))
        elif other := _other_command(place):
            findings.append(
                place.error(
                    f"this is a recipe for {other}",
                    "check reads those for mergekit-yaml, mergekit-multi and "
                    "mergekit-pytorch",
                )
            )
        else:
            roots.append(place)
    if kind == "auto":
        kind = _seen(roots)
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


_BEGIN = "begin with `merge_method:`"


def _other_command(place: Place) -> str | None:
    if place.get("merge_method") is not None:
        return None
    given = [command for key, command in _OTHER_COMMANDS.items() if place.get(key)]
    return given[0] if given else None


def _seen(roots: Sequence[Place]) -> str:
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
