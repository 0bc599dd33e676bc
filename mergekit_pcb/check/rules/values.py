"""Values of parameters that mergekit refuses, or reads otherwise than meant."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from mergekit.config import ConditionalParameter
from mergekit.merge_methods.base import ParameterSpec
from pydantic import ValidationError

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import AUTO
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import misspelt

# Merged in float32, a larger number would be infinity.
_LARGEST = 3.4e38
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
    mappings = [item for item in place.items if isinstance(item.value, dict)]
    scalars = [item for item in place.items if isinstance(item.value, SCALARS)]
    if mappings and scalars:
        yield scalars[0].error(
            f"`{name}` mixes plain values and filters in one list",
            f"write `- value: {scalars[0].value}`",
        )
    if any("model" in item.keys for item in mappings):
        yield place.error(
            f"`{name}` is given by model in a list, and mergekit ignores the models' "
            "names there",
            "write each value under that model's own `parameters:`",
        )
    elif place.value is None:
        yield place.error(f"`{name}` has no value", "write one or remove the key")
    elif place.value == []:
        yield place.error(
            f"`{name}` is an empty list, which sets nothing", "write a value"
        )
    else:
        for entry in place.items or [place]:
            if isinstance(entry.value, dict):
                yield from _condition(entry, name)
            elif not isinstance(entry.value, SCALARS):
                yield entry.error(f"`{name}` takes a number, got {entry.value!r}")


def is_condition(place: Place) -> bool:
    """Whether the lines under a parameter are meant to be a value and a filter."""
    return "model" not in place.keys and any(
        misspelt(key, ConditionalParameter.model_fields) for key in place.keys
    )


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


def values(place: Place) -> Iterator[tuple[Place, Sequence[Place]]]:
    """The scalars and gradients of a setting, each with its points."""
    if isinstance(place.value, SCALARS):
        yield place, [place]
    elif isinstance(place.value, dict):
        if (value := place.fields.get("value")) is not None:
            yield from values(value)
    elif all(isinstance(item.value, SCALARS) for item in place.items):
        yield place, place.items
    else:
        for item in place.items:
            yield from values(item)


def factors_of(parameter: ParameterSpec, place: Place) -> list[float]:
    """The numbers in a setting, which `auto` is none of."""
    points = [point for _, points in values(place) for point in points]
    found = [number_of(parameter, point.value) for point in points]
    return [number for number in found if number is not None]


def number_of(parameter: ParameterSpec, value: object) -> float | None:
    """A value as a number, if it is one that the method takes."""
    try:
        validated = parameter.validate(value)
    except Exception:  # a refused value is a finding of its own
        return None
    return validated if isinstance(validated, float) else None


def wrong_values(document: Document) -> Iterator[Finding]:
    """Parameter values that the merge method refuses."""
    for _, place, parameter in settings(document):
        if parameter is None:
            continue
        for whole, points in values(place):
            problems = [_problem(parameter, point.value) for point in points]
            for point, problem in zip(points, problems, strict=True):
                if problem is not None:
                    yield point.error(*problem)
            if not any(problems):
                yield from _gradient(document, parameter, whole, points)


def _gradient(
    document: Document, parameter: ParameterSpec, place: Place, points: Sequence[Place]
) -> Iterator[Finding]:
    name = parameter.name
    validated = [parameter.validate(point.value) for point in points]
    if document.kind == PYTORCH and len(set(validated)) > 1:
        # The flat planner resolves every tensor at t = 0: it knows no layers.
        yield place.error(
            f"mergekit-pytorch knows no layers, so of the gradient `{name}` only "
            f"the first value, {validated[0]}, counts",
            "write one value, or filters",
        )
    for low, high in itertools.pairwise(validated):
        if _is_number(low) and _is_number(high):
            # No simple fraction of the way, which could be a whole number.
            middle = low + (high - low) / math.pi
            if _refused(parameter, middle):
                yield place.error(
                    f"the gradient `{name}` passes through values like {middle:.3g}, "
                    "where mergekit stops",
                    "write one value, or filters",
                )
                return
    if len({_is_number(value) for value in validated}) > 1:
        yield place.advice(
            f"the gradient `{name}` has numbers and words, so mergekit does not go "
            "from one to the next, but takes each for some of the layers",
            "write filters, or numbers only",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _problem(parameter: ParameterSpec, value: object) -> tuple[str, str] | None:
    """What is wrong with one value of a parameter, with a word on `auto`."""
    problem = _refused(parameter, value)
    if problem is None or not isinstance(value, str) or not misspelt(value, [AUTO]):
        return problem
    message, fix = problem
    return message, fix or f"write a number: only `lambda` of `pcb` can be `{AUTO}`"


def _refused(parameter: ParameterSpec, value: object) -> tuple[str, str] | None:
    """What is wrong with one value of a parameter, and the fix, if anything is."""
    try:
        validated = parameter.validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        wanted = WANTED.get(first["type"].split("_")[0])
        if wanted is not None:
            return f"`{parameter.name}` takes {wanted}, got {value!r}", ""
        message = first["msg"].removeprefix("Value error, ")
    except PCBError as error:
        message = error.message
    except (ValueError, TypeError, OverflowError) as error:
        message = str(error)
    else:
        if not isinstance(validated, float) or abs(validated) <= _LARGEST:
            return None
        message = f"`{parameter.name}` is {value}, which fills the merge with "
        message += "infinities or NaN; write a number of at most 3.4e38"
    if parameter.name not in message:
        message = f"`{parameter.name}`: {message[:1].lower()}{message[1:]}"
    problem, _, fix = message.partition("; ")
    return problem, fix
