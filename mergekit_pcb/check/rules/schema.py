"""Walk a recipe along mergekit's own pydantic models, which define what it reads."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from mergekit_pcb.recipes.positions import Place


def typed(place: Place, annotation: Any) -> Iterator[tuple[Place, type[BaseModel]]]:
    """Every place that mergekit reads into a pydantic model, with that model."""
    models = []
    for kind in _alternatives(annotation):
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal and place.value in arguments:
            return
        if origin is list:
            for item in place.items:
                yield from typed(item, arguments[0])
        elif origin is dict:
            for value in place.fields.values():
                yield from typed(value, arguments[1])
        elif _is_model(kind):
            models.append(kind)
    # A mapping may also be written as one text, as models are: `owner/name`.
    if models and not isinstance(place.value, list):
        chosen = max(models, key=lambda kind: _likeness(place, kind))
        yield place, chosen
        for name, field in chosen.model_fields.items():
            if (child := place.get(name)) is not None:
                yield from typed(child, field.annotation)


def homes(annotation: Any, name: str, path: str = "") -> list[str]:
    """Where a key is read: ``slices[].sources[]``, or ``""`` for the top level."""
    found: list[str] = []
    for kind in _alternatives(annotation):
        if get_origin(kind) is list:
            found += homes(get_args(kind)[0], name, f"{path}[]")
        elif get_origin(kind) is dict:
            found += homes(get_args(kind)[1], name, f"{path}.*")
        elif _is_model(kind):
            if name in kind.model_fields:
                found.append(path)
            for key, field in kind.model_fields.items():
                below = f"{path}.{key}" if path else key
                found += homes(field.annotation, name, below)
    # `modules.*.slices[]` adds nothing to `slices[]`.
    return [
        home
        for home in dict.fromkeys(found)
        if not any(home.endswith(f".{other}") for other in found)
    ]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _likeness(place: Place, kind: type[BaseModel]) -> tuple[int, int]:
    """How many of a model's tags, and of its fields, a mapping has."""
    given = {
        name: kind.model_fields[name].annotation
        for name in place.fields
        if name in kind.model_fields
    }
    tags = [
        place.fields[name].value in get_args(tag)
        for name, tag in given.items()
        if get_origin(tag) is Literal
    ]
    return sum(tags), len(given)
