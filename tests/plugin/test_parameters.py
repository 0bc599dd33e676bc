"""Which values the parameters of `pcb` take, and what is said about others."""

from __future__ import annotations

import pytest

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import PARAMETERS

SPECS = {parameter.name: parameter for parameter in PARAMETERS}


@pytest.mark.parametrize("name", SPECS)
def test_defaults_are_values_that_are_taken(name: str) -> None:
    """What holds without a setting may also be written out."""
    assert SPECS[name].validate(SPECS[name].default) == SPECS[name].default


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("scope", "modle", "model"),
        ("scope", "Tensors", "tensor"),
        ("scope", "whole-model", "model"),
        ("scope", "per tensor", "tensor"),
        ("inter", "pairs", "pairwise"),
        ("inter", "norm", "normalized"),
        ("inter", "RAW", "raw"),
        ("density", 30, "0.3"),
        ("clamp", 1.5, "0.015"),
    ],
)
def test_what_was_meant(name: str, value: object, hint: str) -> None:
    """A word of another spelling, or a percentage, is answered with what was meant."""
    with pytest.raises(PCBError) as refused:
        SPECS[name].validate(value)
    assert refused.value.message.endswith(f"; did you mean {hint}?")


@pytest.mark.parametrize(
    ("name", "value", "end"),
    [
        ("weight", "0,5", "got '0,5'; write 0.5"),
        ("weight", 1e39, "got 1e+39; float32 ends at 3.4e38"),
        ("weight", 10**400, f"got {10**400}"),
        ("density", 1e39, "got 1e+39"),
    ],
)
def test_numbers_that_are_none(name: str, value: object, end: str) -> None:
    """A comma for a point is mended, and only what float32 limits speaks of it."""
    with pytest.raises(PCBError) as refused:
        SPECS[name].validate(value)
    assert refused.value.message.startswith(f"{name} must be ")
    assert refused.value.message.endswith(end)


@pytest.mark.parametrize("value", ["global", "", True, 3, None])
def test_nothing_is_suggested_at_random(value: object) -> None:
    """A value that is near to no choice is answered with the choices only."""
    with pytest.raises(PCBError) as refused:
        SPECS["scope"].validate(value)
    assert refused.value.message == f"scope must be tensor or model, got {value!r}"
