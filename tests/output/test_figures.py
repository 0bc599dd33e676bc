"""Parts of figures that pages share."""

from __future__ import annotations

import pytest

from mergekit_pcb.output.figures import Picture, label_bars, new_figure
from mergekit_pcb.output.html import figure


@pytest.mark.parametrize(("inches", "shown"), [(1.0, ["50", "", "92"]), (0.1, [])])
def test_numbers_in_bars(inches: float, shown: list[str]) -> None:
    """Where they fit: not in low bars, and not in narrow ones."""
    _, (axes,) = new_figure(3, 2)
    label_bars(axes, axes.bar(range(3), [50.3, 2.0, 91.6]), inches)
    assert [text.get_text() for text in axes.texts] == shown


@pytest.mark.parametrize(("inches", "wide"), [(8.4, True), (4.0, False)])
def test_wide_pictures_are_not_shrunk_on_a_phone(inches: float, wide: bool) -> None:
    """They are scrolled; others fit."""
    picture = Picture("name", "caption", lambda: new_figure(inches, 1)[0])
    assert ('<img class="wide"' in figure(picture)) is wide


def test_dollars_in_names_are_no_formulas() -> None:
    """Text that matplotlib could not parse as a formula is drawn as it is."""

    def draw() -> object:
        drawn, (axes,) = new_figure(2, 1)
        axes.set_title(r"a $\frac$ b")
        return drawn

    assert Picture("name", "caption", draw).png().startswith(b"\x89PNG")
