"""How the tables write numbers."""

from __future__ import annotations

import pytest

from mergekit_pcb.inspect.quantities import cosine, count, percent, ratio


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (1_000, "1.0k"),
        (123_456, "123k"),
        (7_240_000, "7.2M"),
        (1_500_000_000, "1.5B"),
    ],
)
def test_count(number: int, text: str) -> None:
    """Four characters or so."""
    assert count(number) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (0.0, "0.0"), (0.0004, "<0.1"), (0.0005, "0.1"), (1.0, "100.0")],
)
def test_percent(share: float | None, text: str) -> None:
    """What is there at all is not shown as nothing."""
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0.00"), (0.01, "0.01"), (0.0012, "1e-03"), (12.3, "12.30")],
)
def test_ratio(value: float | None, text: str) -> None:
    """Small ones keep a digit."""
    assert ratio(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (-0.004, "0.00"), (-0.126, "-0.13"), (1.0, "1.00")]
)
def test_cosine(value: float | None, text: str) -> None:
    """What rounds to 0 has no sign."""
    assert cosine(value) == text
