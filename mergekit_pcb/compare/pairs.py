"""``NAME=VALUE`` on the command line; values are written as in YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import yaml

from mergekit_pcb.plugin.parameters import AUTO
from mergekit_pcb.recipes.edits import plain


def pairs(
    _: click.Context, __: click.Parameter, values: Sequence[str]
) -> dict[str, Any]:
    """Click's callback for an option that is given once for each name."""
    found: dict[str, Any] = {}
    for pair in values:
        name, text = _split(pair)
        if name in found:
            raise click.BadParameter(f"`{name}` is given twice")
        found[name] = _value(text)
    return found


def sweeps(
    _: click.Context, __: click.Parameter, values: Sequence[str]
) -> dict[str, list[Any]]:
    """Click's callback for values to try, ``NAME=A,B``; `AUTO` alone has none."""
    found: dict[str, list[Any]] = {}
    for pair in values:
        if pair == AUTO:
            found[AUTO] = []
            continue
        name, text = _split(pair)
        if name == AUTO:
            raise click.BadParameter(f"write `{AUTO}` alone, or NAME=A,B, not `{pair}`")
        if name in found:
            raise click.BadParameter(
                f"`{name}` is given twice: write all its values in one, {name}=A,B"
            )
        found[name] = _values(text)
        if not found[name]:
            raise click.BadParameter(f"`{pair}` has no value")
    return found


def arguments(
    _: click.Context, __: click.Parameter, value: str | None
) -> dict[str, Any]:
    """Click's callback for ``NAME=VALUE,NAME=VALUE``; no value holds a comma."""
    return pairs(_, __, list(filter(str.strip, (value or "").split(","))))


def _split(pair: str) -> tuple[str, str]:
    name, _, text = pair.partition("=")
    if not (name.strip() and text.strip()):
        raise click.BadParameter(f"write NAME=VALUE, not `{pair}`")
    return name.strip(), text


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise click.BadParameter(f"`{text}` is not a value") from error


def _values(text: str) -> list[Any]:
    value = _value(text)
    if isinstance(value, str):
        value = [_value(word) for word in value.split(",") if word.strip()]
    values = [plain(each) for each in (value if isinstance(value, list) else [value])]
    return [each for n, each in enumerate(values) if each not in values[:n]]
