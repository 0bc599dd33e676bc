"""Parameter values that mergekit, or the method, refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from mergekit.config import ConditionalParameter
from mergekit.merge_methods.base import ParameterSpec
from pydantic import ValidationError

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import misspelt

SCALARS = (bool, int, float, str)

# The types in errors of pydantic, in the terms of recipes.
WANTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "`key: value` lines",
    "model": "`key: value` lines",
}


def wrong_shapes(document: Document) -> Iterator[Finding]:
    """Parameter values that are no scalar, gradient or list of filters."""
    for name, place, _ in settings(document):
        yield from _shape(place, name)


def _shape(place: Place, name: str) -> Iterator[Finding]:
    if place.value is None:
        yield place.error(f"`{name}` has no value", "write one or remove the key")
    elif isinstance(place.value, dict):
        yield from _condition(place, name)
    elif place.value == []:
        yield place.error(
            f"`{name}` is an empty list, which sets nothing", "write a value"
        )
    elif not isinstance(place.value, (*SCALARS, list)):
        yield place.error(f"`{name}` takes a number, got {place.value!r}")
    mappings = [item for item in place.items if isinstance(item.value, dict)]
    scalars = [item for item in place.items if isinstance(item.value, SCALARS)]
    if mappings and scalars:
        yield scalars[0].error(
            f"`{name}` mixes plain values and filters in one list",
            f"write `- value: {scalars[0].value}`",
        )
    for item in place.items:
        if item in mappings:
            yield from _condition(item, name)
        elif item not in scalars:
            yield item.error(f"`{name}` takes a number, got {item.value!r}")


def is_condition(place: Place) -> bool:
    """Whether the lines under a parameter are meant to be a value and a filter."""
    return any(misspelt(key, ConditionalParameter.model_fields) for key in place.keys)


def _condition(place: Place, name: str) -> Iterator[Finding]:
    value, filtered = place.fields.get("value"), place.fields.get("filter")
    if not is_condition(place):
        yield place.error(
            f"`{name}` takes a value, a gradient or filters, got other lines",
            "write what is meant for one model under its own `parameters:`",
        )
    elif value is None:
        # A misspelt `value` is a finding of its own.
        if not any(misspelt(key, ["value"]) for key in place.keys):
            yield place.error(
                f"this entry of `{name}` has no `value`", "add `value:` with a number"
            )
    elif isinstance(value.value, dict) or any(
        isinstance(item.value, dict) for item in value.items
    ):
        yield value.error(
            "filters cannot be nested", "write one `- filter:` entry for each case"
        )
    else:
        yield from _shape(value, name)
    if filtered is not None and not isinstance(filtered.value, (str, type(None))):
        yield filtered.error(
            f"a filter is one piece of a tensor's name, got {filtered.value!r}",
            "write one entry for each",
        )


def leaves(place: Place) -> Iterator[Place]:
    """The scalars of a setting: itself, the points of a gradient, filtered values."""
    return itertools.chain.from_iterable(points for _, points in _values(place))


def _values(place: Place) -> Iterator[tuple[Place, Sequence[Place]]]:
    """The scalars and gradients of a setting, each with its points."""
    if isinstance(place.value, SCALARS):
        yield place, [place]
    elif isinstance(place.value, dict):
        if (value := place.fields.get("value")) is not None:
            yield from _values(value)
    elif all(isinstance(item.value, SCALARS) for item in place.items):
        yield place, place.items
    else:
        for item in place.items:
            yield from _values(item)


def wrong_values(document: Document) -> Iterator[Finding]:
    """Parameter values that the merge method refuses."""
    for name, place, parameter in settings(document):
        if parameter is None:
            continue
        refused = False
        for leaf in leaves(place):
            if problem := _refused(parameter, leaf.value):
                refused = True
                yield leaf.error(*problem)
            elif _not_finite(parameter, leaf.value):
                yield leaf.error(
                    f"`{name}` is {leaf.value}, which fills the merge with it",
                    "write a finite number",
                )
        for gradient, points in _values(place) if not refused else ():
            validated = [parameter.validate(point.value) for point in points]
            if len(set(validated)) > 1:
                yield from _gradient(document, parameter, gradient, validated)


def _gradient(
    document: Document, parameter: ParameterSpec, place: Place, points: Sequence[Any]
) -> Iterator[Finding]:
    name = parameter.name
    if document.kind == PYTORCH:
        # The flat planner resolves every tensor at t = 0: it knows no layers.
        yield place.error(
            f"mergekit-pytorch knows no layers, so of the gradient `{name}` only "
            f"the first value, {points[0]}, counts",
            "write one value, or filters",
        )
    for low, high in itertools.pairwise(points):
        if isinstance(low, (int, float)) and not isinstance(low, bool):
            # No simple fraction of the way, which could be a whole number.
            middle = low + (high - low) / math.pi
            if _refused(parameter, middle):
                yield place.error(
                    f"the gradient `{name}` passes through values like {middle:.3g}, "
                    "where mergekit stops",
                    "write one value, or filters",
                )
                return


def _not_finite(parameter: ParameterSpec, value: object) -> bool:
    validated = parameter.validate(value)
    return isinstance(validated, float) and not math.isfinite(validated)


def _refused(parameter: ParameterSpec, value: object) -> tuple[str, str] | None:
    """What is wrong with one value of a parameter, and the fix, if anything is."""
    try:
        parameter.validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        wanted = WANTED.get(first["type"].split("_")[0])
        if wanted is None:
            text = first["msg"].removeprefix("Value error, ")
            return _halves(text if parameter.name in text else _named(parameter, text))
        return f"`{parameter.name}` takes {wanted}, got {value!r}", ""
    except PCBError as error:
        return _halves(error.message)
    except (ValueError, TypeError, OverflowError) as error:
        return _halves(_named(parameter, str(error)))
    return None


def _named(parameter: ParameterSpec, text: str) -> str:
    return f"`{parameter.name}`: {text[:1].lower()}{text[1:]}"


def _halves(message: str) -> tuple[str, str]:
    problem, _, fix = message.partition("; ")
    return problem, fix
