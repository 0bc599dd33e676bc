"""The same number of settings for every method, whatever parameters it has."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

SCALE = "scale"
"""What `linear` tries: how far to go from the base towards the average."""

_NO_SCALE_GIVEN = (0.5, 1.5)
_NO_FRACTION_GIVEN = (0.1, 1.0)

Values = Mapping[str, Sequence[Any]]


def tries(
    method: str, parameters: Collection[str], swept: Values
) -> list[dict[str, Any]]:
    """The settings that a method tries.

    A method that lacks a swept parameter tries its own nearest one instead, as often
    as the others: more values of another swept parameter, else of lambda, else of its
    nearest equivalent. Only a method without any such parameter is tried once.

    Args:
        method: mergekit's name of the method.
        parameters: those that have an effect on it.
        swept: values by parameter.

    Example:
        >>> tries("ties", {"lambda", "density"}, {"lambda": [1.0, 1.4]})
        [{'lambda': 1.0}, {'lambda': 1.4}]
        >>> tries("linear", {"weight"}, {"lambda": [1.0, 1.4]})
        [{'scale': 1.0}, {'scale': 1.4}]
        >>> tries("pcb", {"lambda"}, {"lambda": [1.0, 1.6], "select_topk": [0.1, 0.5]})
        [{'lambda': 1.0}, {'lambda': 1.2}, {'lambda': 1.4}, {'lambda': 1.6}]
    """
    if not swept:
        return [{}]
    usable = {*parameters, SCALE} if method == "linear" else parameters
    axes = {name: list(swept[name]) for name in swept if name in usable}
    missing = math.prod(len(swept[name]) for name in swept if name not in axes)
    if missing > 1 or not axes:
        numeric = [name for name, values in axes.items() if _are_numbers(values)]
        scales = swept.get("lambda") or _NO_SCALE_GIVEN
        if numeric:
            values = axes[numeric[0]]
            axes[numeric[0]] = spread(values, len(values) * missing)
        elif "lambda" in parameters:
            axes["lambda"] = spread(scales, missing)
        elif method == "linear":
            axes[SCALE] = spread(scales, missing)
        elif "select_topk" in parameters:
            # It is a density: the fraction of coordinates that are kept.
            fractions = swept.get("density") or _NO_FRACTION_GIVEN
            axes["select_topk"] = spread(fractions, missing, evenly_in_logarithm=True)
    return [
        dict(zip(axes, values, strict=True))
        for values in itertools.product(*axes.values())
    ]


def spread(
    values: Sequence[Any], count: int, *, evenly_in_logarithm: bool = False
) -> list[float]:
    """``count`` values over the range of ``values``; those themselves if they fit.

    Example:
        >>> spread((0.1, 1.0), 3, evenly_in_logarithm=True)
        [0.1, 0.316, 1.0]
    """
    if len(values) == count and len(set(values)) == count:
        return list(values)
    low, high = min(values), max(values)
    if count == 1:
        return [(low + high) / 2]
    steps = [i / (count - 1) for i in range(count)]
    if evenly_in_logarithm and low > 0:
        return [_rounded(low * (high / low) ** step) for step in steps]
    return [_rounded(low + (high - low) * step) for step in steps]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(
        isinstance(value, (int, float)) and not isinstance(value, bool)
        for value in values
    )
