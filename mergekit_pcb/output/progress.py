"""How far a step is: what long work calls, and the bars that show it."""

from __future__ import annotations

import math
from collections.abc import Callable

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

Progress = Callable[[float], None]
"""Called with how much of a step is done, in percent."""


class _TimeLeft(TimeRemainingColumn):
    """The time left: what the field ``left`` says, else from the speed so far."""

    def render(self, task: rich.progress.Task) -> Text:
        left = task.fields.get("left")
        return super().render(task) if left is None else Text(left)


def new_bars(console: Console, *, hidden: bool) -> rich.progress.Progress:
    """Bars of 80 columns: what is done, how much of it, and the time left.

    Args:
        console: where to draw; only a terminal gets more than the last state.
        hidden: draw nothing.
    """
    return rich.progress.Progress(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", max_width=44),
        ),
        BarColumn(12),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        _TimeLeft(compact=True, elapsed_when_finished=True),
        console=console,
        disable=hidden,
        # A step may take longer than the half minute over which rich measures speed.
        speed_estimate_period=math.inf,
        # Whoever redirects these streams meanwhile must get them back as they were.
        redirect_stdout=False,
        redirect_stderr=False,
    )
