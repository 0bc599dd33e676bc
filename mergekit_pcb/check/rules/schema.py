"""Walk a recipe along mergekit's own pydantic models, which define what it reads."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from mergekit_pcb.recipes.positions import Place


def typed(place: Place, annotation: Any) -> Iterator[tuple[Place, type[BaseModel]]]:
    """Every place that mergekit reads into a pydantic model, with that model."""
    kind = _chosen(place, annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield place, kind
        for name, field in kind.model_fields.items():
            if (child := place.get(name)) is not None:
                yield from typed(child, field.annotation)
    elif get_origin(kind) is list:
        for item in place.items:
            yield from typed(item, get_args(kind)[0])
    elif get_origin(kind) is dict:
        for child in place.fields.values():
            yield from typed(child, get_args(kind)[1])


def homes(
    annotation: Any, name: str, path: str = "", *, within: frozenset[Any] = frozenset()
) -> list[str]:
    """Where a key is read: ``slices[].sources[]``, or ``""`` for the top level."""
    found: list[str] = []
    for kind in _alternatives(annotation):
        if get_origin(kind) is list:
            found += homes(get_args(kind)[0], name, f"{path}[]", within=within)
        elif get_origin(kind) is dict:
            found += homes(get_args(kind)[1], name, f"{path}.*", within=within)
        elif _is_model(kind) and kind not in within:
            if name in kind.model_fields:
                found.append(path)
            for key, field in kind.model_fields.items():
                below = f"{path}.{key}" if path else key
                found += homes(field.annotation, name, below, within=within | {kind})
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


def _chosen(place: Place, annotation: Any) -> Any:
    """The alternative of a union that the value was meant for."""
    kinds = _alternatives(annotation)
    if any(get_origin(k) is Literal and place.value in get_args(k) for k in kinds):
        return None
    if isinstance(place.value, list):
        lists = [kind for kind in kinds if get_origin(kind) is list]
        # A list of mappings among lists of numbers: the one that has mappings.
        return max(lists, key=lambda kind: _is_model(get_args(kind)[0]), default=None)
    if isinstance(place.value, dict):
        dicts = [kind for kind in kinds if get_origin(kind) is dict]
        models = [kind for kind in kinds if _is_model(kind)]
        return dicts[0] if dicts else max(models, key=_fit(place), default=None)
    # A mapping may also be written as one text, as models are: `owner/name`.
    return next((kind for kind in kinds if _is_model(kind)), None)


def _fit(place: Place) -> Any:
    def score(kind: type[BaseModel]) -> tuple[int, int]:
        tagged = [
            field
            for name, field in kind.model_fields.items()
            if get_origin(field.annotation) is Literal
            and place.fields.get(name) is not None
            and place.fields[name].value in get_args(field.annotation)
        ]
        return len(tagged), len(set(kind.model_fields) & set(place.fields))

    return score
