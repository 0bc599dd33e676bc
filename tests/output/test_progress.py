"""The bars that long work is shown by."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mergekit_pcb.output import progress


def drawn() -> list[str]:
    """What stays on a terminal of 80 columns, with one step of four done."""
    console = Console(file=io.StringIO(), width=80, record=True, force_terminal=True)
    seconds = iter(range(100))
    bars = progress.new_bars(console, hidden=False)
    bars.get_time = lambda: float(next(seconds))
    task = bars.add_task("models evaluated", total=4)
    long = bars.add_task("merging pcb [weight 1], density 0.1, lambda 1.4, and on")
    bars.update(long, completed=37.5)
    for _ in range(2):
        bars.advance(task)
    console.print(bars.get_renderable())
    return console.export_text().splitlines()


def test_bars_say_how_much_is_done_and_how_long_the_rest_takes() -> None:
    """Two lines of at most 80 columns; names are cut, and brackets are no markup."""
    models, step = drawn()
    assert models.startswith("models evaluated ")
    assert "2 of 4" in models
    assert models.rstrip()[-5:].replace(":", "").isdigit()
    assert step.startswith("merging pcb [weight 1], density 0.1")
    assert "…" in step
    assert "38 of 100" in step


def test_hidden_bars_draw_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """With --quiet not even an empty line is written."""
    with progress.new_bars(Console(), hidden=True) as bars:
        bars.advance(bars.add_task("models evaluated", total=1))
    assert capsys.readouterr() == ("", "")
