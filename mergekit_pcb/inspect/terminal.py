"""An inspection on the terminal, in 80 columns."""

from __future__ import annotations

import io
import sys
from itertools import zip_longest

import rich.table
from rich import box
from rich.console import Console
from rich.text import Text

from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.quantities import DEFINITIONS
from mergekit_pcb.inspect.tables import clipped
from mergekit_pcb.output.table import Table
from mergekit_pcb.output.text import echo
from mergekit_pcb.printable import printable

_WIDTH = 80
# Between two columns.
_GAP = 2
# Of columns in tables by kind, so that the same kinds stand below each other.
_KIND = 6


def show(inspection: Inspection, *, layers: bool, legend: bool) -> None:
    """Print an inspection.

    Args:
        inspection: what to print.
        layers: whether to add a table of layers for each setting.
        legend: whether to explain the terms.
    """
    printed = io.StringIO()
    screen = Console(
        file=printed,
        force_terminal=sys.stdout.isatty(),
        highlight=False,
        markup=False,
        emoji=False,
    )
    screen.width = min(_WIDTH, screen.width)
    screen.print(printable(tables.summary(inspection)))
    screen.print(_drawn(tables.task_vectors(inspection), screen.width, _KIND))
    if len(inspection.models) > 1:
        screen.print(_drawn(tables.cosines(inspection), screen.width))
    for k in range(len(inspection.settings)):
        screen.print(_drawn(tables.competition(inspection, k), screen.width, _KIND))
        if became := tables.automatic(inspection, k):
            screen.print(f"\n{became}")
        if layers:
            screen.print(_drawn(tables.by_layer(inspection, k), screen.width))
    screen.print()
    for warning in tables.warnings(inspection):
        screen.print(Text(printable(warning), style="bold red"))
    if legend:
        for term in ("keeps", "wins", "merged / mean"):
            screen.print(Text(f"{term}: {DEFINITIONS[term]}", style="dim"))
    # Cells are padded, which nobody wants in a file.
    lines = (line.rstrip() for line in printed.getvalue().splitlines())
    echo("\n".join(lines).rstrip())


def _drawn(table: Table, width: int, least: int = 0) -> rich.table.Table:
    """The table for a screen; with ``least``, it is as wide, and so are its columns."""
    lines = [map(printable, line) for line in (table.headings, *table.rows)]
    columns = [list(c) for c in zip_longest(*lines, fillvalue="")]
    widths = [_GAP + max(least, *map(len, column)) for column in columns]
    # Names are shortened where there is no room, never numbers.
    room = max(width - sum(widths) + widths[table.words], _KIND)
    columns[table.words] = [clipped(name, room) for name in columns[table.words]]
    drawn = rich.table.Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        title=f"\n{printable(table.title)}",
        title_style="bold",
        title_justify="left",
    )
    drawn.add_column("", no_wrap=True, min_width=room if least else None)
    for heading, *_ in columns[1:]:
        drawn.add_column(heading, justify="right", no_wrap=True, min_width=least)
    for row in list(zip(*columns, strict=True))[1:]:
        drawn.add_row(*row)
    return drawn
