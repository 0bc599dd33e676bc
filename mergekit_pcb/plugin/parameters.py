"""The parameters of `pcb`: their defaults, which values they take, and error messages.

Defaults of recipe parameters are defined here, or in the kernel's `Options`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from mergekit.merge_methods import ParameterScope
from mergekit.merge_methods.base import ParameterSpec
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.domain import INTER_FORMS, Options
from mergekit_pcb.suggestions import closest

SCOPES = ("tensor", "model")

AUTO = "auto"
"""The value of `lambda` that stands for what `kernel.projection` makes of it."""

DEFAULT_WEIGHT = 1.0
DEFAULT_DENSITY = 0.2
DEFAULT_LAMBDA = "auto"
DEFAULT_SCOPE = "tensor"
DEFAULT_INTER = Options().inter
DEFAULT_CLAMP = Options().clamp

_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")

NO_EFFECT = "no effect"
"""The description of parameters that are accepted and not read."""


def _number(name: str, takes: str, fits: Callable[[float], bool]) -> Any:
    """The type of a number in a range, whose errors name the parameter."""

    def check(value: object) -> float:
        try:
            # YAML reads 1e-1 as a string; true and false are numbers to Python.
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if fits(number):
            return number
        hint = ""
        # A number just above 1, where 1 fits, is no percentage.
        least = 2 if fits(1) else 1
        if least <= number <= 100 and fits(number / 100):
            hint = f"; did you mean {number / 100:g}?"
        elif fits is _fits_float32 and math.isfinite(number):
            hint = "; float32 ends at 3.4e38"
        elif isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
            hint = f"; write {value.strip().replace(',', '.')}"
        raise ValueError(f"{name} must be {takes}, got {value!r}{hint}")

    return Annotated[float, BeforeValidator(check)]


def _or_auto(name: str, number: Any) -> Any:
    """The type of a number or the word auto."""
    of_number = TypeAdapter(number)

    def check(value: object) -> Any:
        if value == AUTO:
            return AUTO
        if isinstance(value, str) and closest(value, [AUTO]):
            raise ValueError(
                f"{name} must be a number or auto, got {value!r}; did you mean auto?"
            )
        return of_number.validate_python(value)

    return Annotated[float | str, BeforeValidator(check)]


def _choice(name: str, choices: Sequence[str]) -> Any:
    """The type of one of a few words, whose errors name the parameter."""

    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        near = closest(str(value), choices)
        hint = f"; did you mean {near[0]}?" if near else ""
        listed = " or ".join([", ".join(choices[:-1]), choices[-1]])
        raise ValueError(f"{name} must be {listed}, got {value!r}{hint}")

    return Annotated[str, BeforeValidator(check)]


def _file_name(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"statistics must be the name of a file, got {value!r}")


class _Parameter(ParameterSpec):
    """A parameter whose errors are one line."""

    def validate(self, value: Any) -> Any:
        """The value in its type.

        Raises:
            PCBError: it is none that the parameter takes.
        """
        if value is self.default:
            return value
        try:
            return super().validate(value)
        except ValidationError as error:
            cause = error.errors()[0].get("ctx", {}).get("error")
            text = f"{self.name} must be true or false, got {value!r}"
            raise PCBError(str(cause or text)) from error


def _fits_float32(number: float) -> bool:
    return abs(number) <= _LARGEST


_PER_MODEL, _SHARED = ParameterScope.NON_BASE, ParameterScope.SHARED
# Merged in float32, a larger number would be infinity.
_LARGEST = 3.4e38
_FINITE = ("a finite number", _fits_float32)

PARAMETERS = (
    _Parameter(
        "weight",
        _number("weight", *_FINITE),
        _PER_MODEL,
        DEFAULT_WEIGHT,
        "scales what the model contributes, after the competition",
    ),
    _Parameter(
        "density",
        _number("density", "in (0, 1]", lambda r: 0 < r <= 1),
        _PER_MODEL,
        DEFAULT_DENSITY,
        "fraction of coordinates where the model competes",
    ),
    _Parameter(
        "lambda",
        _or_auto("lambda", _number("lambda", "auto or a finite number", _fits_float32)),
        _SHARED,
        DEFAULT_LAMBDA,
        "scales the merged task vector; auto: chosen from the task vectors",
    ),
    _Parameter(
        "scope",
        _choice("scope", SCOPES),
        _SHARED,
        DEFAULT_SCOPE,
        "what is ranked together: each tensor by itself, or the whole model",
    ),
    _Parameter(
        "inter",
        _choice("inter", INTER_FORMS),
        _SHARED,
        DEFAULT_INTER,
        "published form of the balancing between models",
    ),
    _Parameter(
        "clamp",
        _number("clamp", "in [0, 0.5)", lambda c: 0 <= c < 0.5),
        _SHARED,
        DEFAULT_CLAMP,
        "fraction of magnitudes clamped at each end",
    ),
    _Parameter(
        "statistics",
        Annotated[str | None, BeforeValidator(_file_name)],
        _SHARED,
        None,
        "file of whole-model statistics from an earlier merge of the same models",
    ),
    _Parameter("normalize", bool, _SHARED, False, NO_EFFECT),
    _Parameter("int8_mask", bool, _SHARED, False, NO_EFFECT),
)
