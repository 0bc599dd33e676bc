"""The recipe against mergekit's own pydantic models: missing keys, wrong types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.check.rules.keys import is_misspelt
from mergekit_pcb.check.rules.values import WANTED
from mergekit_pcb.recipes.findings import ERROR, Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import quoted

_EITHER = ("models", "slices", "modules")


def one_kind_of_input(document: Document) -> Iterator[Finding]:
    """None, or several, of `models`, `slices` and `modules`."""
    if document.kind == PYTORCH:
        return
    modules = document.root.get("modules")
    holders: list[tuple[Place, tuple[str, ...]]] = [(document.root, _EITHER)]
    holders += [(m, _EITHER[:2]) for m in (modules.fields.values() if modules else ())]
    for place, choice in holders:
        given = [key for key in choice if place.get(key) and place.fields[key].value]
        if len(given) > 1:
            yield place.keys[given[1]].error(
                f"{quoted(given)} exclude each other", "keep one of them"
            )
        elif not given and not is_misspelt(document, place, *_EITHER):
            yield place.error(
                "there is nothing to merge here",
                f"list the models under `{choice[0]}:`, or write {quoted(choice[1:])}",
            )


def empty_slices(document: Document) -> Iterator[Finding]:
    """Slices without sources."""
    for place in document.root.walk():
        sources = place.fields.get("sources")
        if sources is not None and sources.value == []:
            yield sources.error(
                "this slice has no sources", "list models, or remove it"
            )


def refused(document: Document, earlier: Sequence[Finding]) -> Iterator[Finding]:
    """What mergekit's pydantic models refuse and no other rule has explained."""
    try:
        document.schema.model_validate(document.root.value)
    except ValidationError as error:
        seen: set[int] = set()
        for problem in error.errors():
            place, missing = _located(document.root, problem["loc"])
            if id(place) in seen or _explained(place, missing, document, earlier):
                continue
            seen.add(id(place))
            yield place.error(*_described(document, place, missing, problem))
        if not seen and not any(finding.severity == ERROR for finding in earlier):
            yield _verdict(document, str(error.errors()[0]["msg"]))
    except RuntimeError as error:
        if not any(finding.severity == ERROR for finding in earlier):
            yield _verdict(document, str(error))


def _verdict(document: Document, text: str) -> Finding:
    return document.root.error(f"mergekit refuses this recipe: {text}")


def _located(root: Place, location: Sequence[Any]) -> tuple[Place, str | None]:
    """The deepest place on the way to an error, and the key that is missing there."""
    place = root
    for index, part in enumerate(location):
        # Below a parameter pydantic reports every alternative of a union; the
        # parameter as a whole is what is wrong.
        if index >= 2 and "parameters" in location[: index - 1]:
            return place, None
        if isinstance(part, int) and part < len(place.items):
            place = place.items[part]
        elif part in place.fields:
            place = place.fields[part]
        # Anything else names an alternative of a union, or a key that is not there.
    last = location[-1] if location else None
    absent = isinstance(last, str) and last not in place.fields
    return place, last if absent and isinstance(last, str) else None


def _explained(
    place: Place, missing: str | None, document: Document, earlier: Sequence[Finding]
) -> bool:
    """Whether an earlier finding is about the same place, or about something in it."""
    if missing is not None and isinstance(place.value, dict):
        return is_misspelt(document, place, missing)
    inside = (f"{place.path}.", f"{place.path}[")
    return any(
        finding.severity == ERROR
        and (finding.path == place.path or finding.path.startswith(inside))
        for finding in earlier
    )


def _described(
    document: Document, place: Place, missing: str | None, problem: Any
) -> tuple[str, str]:
    """The message and the fix for an error that pydantic reports."""
    key = place.path.rpartition(".")[2]
    is_entry = key.endswith("]")
    if isinstance(place.value, list) and problem["type"] in ("missing", "too_long"):
        return f"`{key}` takes two numbers, got {place.value}", "write `[first, end]`"
    if problem["type"] == "missing":
        holder = "this entry" if is_entry else f"`{key}`" if key else "the recipe"
        return f"{holder} has no `{missing}`", f"add `{missing}:`"
    wanted = WANTED.get(problem["type"].split("_")[0])
    if wanted is None:
        return f"`{key}`: {problem['msg']}", ""
    if place is document.root:
        return "a recipe is `key: value` lines", "begin with `merge_method:`"
    shown = "nothing" if place.value is None else repr(place.value)
    if isinstance(place.value, (dict, list)):
        shown = "a list" if isinstance(place.value, list) else "`key: value` lines"
    subject = "an entry" if is_entry else f"`{key}`"
    return f"{subject} takes {wanted}, got {shown}", _fix(place, wanted)


def _fix(place: Place, wanted: str) -> str:
    text = place.value if isinstance(place.value, str) else ""
    if place.path.endswith("]") and text and wanted == WANTED["model"]:
        return f"write `- model: {text}`"
    if place.path.endswith("layer_range"):
        return "write `[first, end]`"
    if wanted == WANTED["dict"] and ":" in text:
        return "write a space after each colon"
    if wanted == WANTED["dict"] and isinstance(place.value, list):
        return "remove the `-` before its keys"
    if wanted == WANTED["list"]:
        return "begin each entry with `- `"
    if wanted == WANTED["string"]:
        return "put quotes around it" if place.value is not None else ""
    return ""
