"""The recipe against mergekit's own pydantic models.

Unknown keys, which mergekit ignores; missing keys; values of a wrong type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mergekit.common import ModelPath
from mergekit.config import (
    ConditionalParameter,
    MergeConfiguration,
    OutputSliceDefinition,
)
from mergekit.options import MergeOptions
from pydantic import BaseModel, ValidationError

from mergekit_pcb.check.rules.document import PYTORCH, Document, levels, typed
from mergekit_pcb.check.rules.values import WANTED, is_condition
from mergekit_pcb.plugin.parameters import NO_EFFECT
from mergekit_pcb.plugin.unknown_parameters import (
    option_hint,
    parameter_names,
    unknown_parameter,
)
from mergekit_pcb.recipes.findings import ERROR, Finding
from mergekit_pcb.recipes.models import in_one_line, reference
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import closest, misspelt, quoted

_EITHER = ("models", "slices", "modules")

# Declared by mergekit and read nowhere in it, as a test verifies.
_DECLARED_ONLY = {(OutputSliceDefinition, "residual_weight")}


def unknown_keys(document: Document) -> Iterator[Finding]:
    """Keys that mergekit does not read where they are, and ignores."""
    for place, name, model in _unread(document):
        if not _is_misplaced(document, name, model):
            yield place.keys[name].error(*_unknown(document, place, name, model))


def misplaced_parameters(document: Document) -> Iterator[Finding]:
    """Parameters that are not under `parameters:`, where mergekit ignores them."""
    for place, name, model in _unread(document):
        if not _is_misplaced(document, name, model):
            continue
        key, message = place.keys[name], _ignored(name)
        parameter = document.parameters.get(name)
        if parameter is None or parameter.description != NO_EFFECT:
            yield key.error(message, "move it under `parameters:`")
        else:
            yield key.advice(message, "remove it: it would have no effect there either")


def _is_misplaced(document: Document, name: str, model: type[BaseModel]) -> bool:
    fields = model.model_fields
    return (
        "parameters" in fields
        and (model, name) not in _DECLARED_ONLY
        and not _is_of_mergekit_yaml(document, name)
        and unknown_parameter(name, document.spec) is None
    )


def _ignored(name: str) -> str:
    return f"mergekit ignores the key `{name}` here"


def is_misspelt(document: Document, place: Place, *fields: str) -> bool:
    """Whether an unknown key of a place was probably meant to be one of ``fields``."""
    return any(
        not set(fields).isdisjoint(_meant(document, name, model))
        for holder, name, model in _unread(document)
        if holder is place
    )


def _unread(document: Document) -> Iterator[tuple[Place, str, type[BaseModel]]]:
    """Mapping, key and pydantic model of every key that is not in that model."""
    for place, model in typed(document.root, document.schema):
        # Other lines under a parameter are wrong as a whole, not key by key.
        if model is ConditionalParameter and not is_condition(place):
            continue
        for name in place.keys:
            is_read = name in model.model_fields and (model, name) not in _DECLARED_ONLY
            if not is_read and not _has_a_use(document, place, name):
                yield place, name, model


def _has_a_use(document: Document, place: Place, name: str) -> bool:
    # mergekit-multi removes `name` before mergekit reads the recipe; in other recipes
    # it is a harmless label.
    if place is document.root and name == "name":
        return document.kind != PYTORCH
    # A key that only holds an anchor is YAML's way to declare a variable.
    return place.fields[name].anchored


def _meant(document: Document, name: str, model: type[BaseModel]) -> list[str]:
    """The fields that an unknown key was probably meant to be."""
    if _is_of_mergekit_yaml(document, name):
        return []
    if found := misspelt(name, model.model_fields):
        return found
    if _homes(document, name) or name in MergeOptions.model_fields:
        return []
    return closest(name, model.model_fields)


def _is_of_mergekit_yaml(document: Document, name: str) -> bool:
    return document.kind == PYTORCH and name in MergeConfiguration.model_fields


def _as_one_model(entry: Place) -> str:
    """The fix for a model whose revision or adapter has a key of its own."""
    parts = {key: place.value for key, place in entry.fields.items()}
    try:
        model = reference(parts["model"])
        if "revision" in parts:
            path = {"path": model.model.path, "revision": str(parts["revision"])}
            model = model.model_copy(update={"model": ModelPath.model_validate(path)})
        if "lora" in parts:
            adapter = reference(parts["lora"]).model
            model = model.model_copy(update={"lora": adapter})
    except (KeyError, ValueError):
        return "write `model: owner/name@revision+adapter`"
    return f"write `model: {in_one_line(model)}`"


def _unknown(
    document: Document, place: Place, name: str, model: type[BaseModel]
) -> tuple[str, str]:
    """The message about an unknown key, and the fix."""
    if (model, name) in _DECLARED_ONLY:
        return f"mergekit never reads `{name}`", "remove it"
    fields = list(model.model_fields)
    message = _ignored(name)
    if _is_of_mergekit_yaml(document, name):
        return f"mergekit-pytorch does not read `{name}`", "remove it"
    if "model" in fields and name in ("revision", "lora"):
        return message, _as_one_model(place)
    if near := _meant(document, name, model):
        return message, f"did you mean {quoted(near, 'or')}?"
    if where := _homes(document, name):
        if "" in where:
            return message, "move it to the top level of the recipe"
        return message, f"it is read in {quoted(where[:3], 'or')}"
    if name in MergeOptions.model_fields:
        return message, option_hint(name)
    near = closest(name, parameter_names(document.spec))
    if near and "parameters" in fields:
        return message, f"did you mean {quoted(near, 'or')}, under `parameters:`?"
    return message, f"remove it; it reads {quoted(fields)}"


def _homes(document: Document, name: str) -> list[str]:
    """Where a key is read; ``""`` is the top level."""
    found = [path for path, m in levels(document.schema) if name in m.model_fields]
    # `modules.*.slices[]` adds nothing to `slices[]`.
    return [
        home
        for home in dict.fromkeys(found)
        if not any(home.endswith(f".{other}") for other in found)
    ]


def one_kind_of_input(document: Document) -> Iterator[Finding]:
    """None, or several, of `models`, `slices` and `modules`."""
    if document.kind == PYTORCH:
        return
    modules = document.root.get("modules")
    holders: list[tuple[Place, tuple[str, ...]]] = [(document.root, _EITHER)]
    holders += [(m, _EITHER[:2]) for m in (modules.fields.values() if modules else ())]
    for place, choice in holders:
        given = [key for key in choice if (got := place.get(key)) and got.value]
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
    problems: Sequence[Any] = ()
    try:
        document.schema.model_validate(document.root.value)
        return
    except ValidationError as error:
        problems = error.errors()
        verdict = problems[0]["msg"]
    except RuntimeError as error:
        verdict = str(error)
    seen: set[int] = set()
    for problem in problems:
        place, missing = _located(document.root, problem["loc"])
        if id(place) not in seen and not _explained(place, missing, document, earlier):
            seen.add(id(place))
            yield place.error(*_described(place, missing, problem))
    if not seen and not any(finding.severity == ERROR for finding in earlier):
        yield document.root.error(f"mergekit refuses this recipe: {verdict}")


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
    return place, last if absent else None


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


def _described(place: Place, missing: str | None, problem: Any) -> tuple[str, str]:
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
