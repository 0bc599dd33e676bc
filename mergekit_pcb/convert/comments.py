"""What a converted recipe says of itself: what was changed, and why."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from mergekit_pcb.plugin.parameters import AUTO, DEFAULT_DENSITY
from mergekit_pcb.recipes import edits

_WIDTH = 84
# Longer values are not repeated in comments.
_SHORT = 60


def settings_of(place: Any) -> dict[str, list[Any]]:
    """Every parameter that is set, and its different values, in their order."""
    found: dict[str, list[Any]] = {}
    for parameters in _parameter_blocks(place):
        for name, value in parameters.items():
            values = found.setdefault(name, [])
            if edits.plain(value) not in values:
                values.append(edits.plain(value))
    return found


def _parameter_blocks(place: Any) -> Iterator[dict[str, Any]]:
    if isinstance(place, dict):
        if isinstance(place.get("parameters"), dict):
            yield place["parameters"]
        for inner in place.values():
            yield from _parameter_blocks(inner)
    elif isinstance(place, list):
        for inner in place:
            yield from _parameter_blocks(inner)


def about_weights(weights: list[Any], *, mentioned: bool, kept: bool) -> Iterator[str]:
    """What became of the weights.

    Args:
        weights: of the models.
        mentioned: whether the recipe said anything of them.
        kept: whether they are in the new recipe.
    """
    if kept:
        yield (
            f"weight: as before. With `lambda: {AUTO}` only the proportions of the "
            "weights count."
        )
        if any(number == 0 for weight in weights for number in edits.numbers(weight)):
            yield (
                "A model with weight 0 still competes, and adds nothing where it wins; "
                "leave it out if it is to have no part."
            )
    elif mentioned:
        yield (
            f"weight{_values(weights[:1])}: removed, since it is the same for all "
            f"models. With `lambda: {AUTO}` only the proportions of the weights count."
        )


def about_the_rest(found: dict[str, list[Any]], method: str) -> Iterator[str]:
    """What became of the other settings, which `settings_of` a recipe has found."""
    if "density" in found:
        densities = found["density"]
        text = (
            f"density{_values(densities)}: removed, for the default {DEFAULT_DENSITY}. "
            f"There it was the share of changes that `{method}` keeps; here it is the "
            "share of coordinates where a model competes."
        )
        if len(densities) > 1:
            text += (
                " The differences do not carry over: what each model counts is its "
                "`weight`."
            )
        yield text
    if "lambda" in found:
        yield (
            f"lambda{_values(found['lambda'])}: removed, for the default `{AUTO}`, "
            "which finds it from the models."
        )
    others = [name for name in found if name not in ("weight", "density", "lambda")]
    if others:
        shown = ", ".join(f"{name}{_values(found[name])}" for name in others)
        yield f"{shown}: removed. PCB has nothing like it."


def _values(values: Sequence[Any]) -> str:
    """Values in parentheses after a blank, or nothing if that would be long."""
    text = ", ".join(map(_in_yaml, values))
    return f" ({text})" if len(text) <= _SHORT else ""


def _in_yaml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def comment_of(method: str, notes: Sequence[str]) -> str:
    """The comment above a recipe made of one for another method, in short lines."""
    lines = [f"Made of a recipe for `{method}` by `mergekit-pcb convert`."]
    for note in notes:
        lines += textwrap.wrap(
            note,
            _WIDTH,
            initial_indent="* ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
