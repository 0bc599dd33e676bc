"""An inspection on the terminal, in 80 columns."""

from __future__ import annotations

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.tables import Sheet

_WIDTH = 80
# So that what stands in the same column of two tables is of the same kind of tensor.
_FIGURE = 6


def show(inspection: Inspection, *, layers: bool, legend: bool) -> None:
    """Print an inspection.

    Args:
        inspection: what was found.
        layers: whether to add a table of layers for each setting.
        legend: whether to say what the figures mean.
    """
    screen = Console(highlight=False, markup=False, emoji=False)
    screen.width = min(_WIDTH, screen.width)
    with screen.capture() as printed:
        screen.print(tables.heading(inspection))
        screen.print(_aligned(tables.task_vectors(inspection)))
        if len(inspection.models) > 1:
            screen.print(_table(tables.cosines(inspection)))
        for k in range(len(inspection.settings)):
            screen.print(_aligned(tables.outcome(inspection, k)))
            if layers:
                screen.print(_table(tables.by_layer(inspection, k)))
        screen.print()
        for warning in tables.warnings(inspection):
            screen.print(Text(warning, style="bold red"))
        if legend:
            screen.print(Text(tables.LEGEND, style="dim"))
    # Cells are padded, which nobody wants in a file.
    lines = (line.rstrip() for line in printed.get().splitlines())
    click.echo("\n".join(lines).rstrip())


def _aligned(sheet: Sheet) -> Table:
    return _table(sheet, _WIDTH - (_FIGURE + 2) * len(sheet.headings), _FIGURE)


def _table(sheet: Sheet, label: int | None = None, figure: int = 0) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        title=f"\n{sheet.title}",
        title_style="bold",
        title_justify="left",
    )
    table.add_column("", overflow="ellipsis", no_wrap=True, width=label)
    for heading in sheet.headings:
        table.add_column(heading, justify="right", no_wrap=True, min_width=figure)
    for line in sheet.lines:
        table.add_row(line.label, *line.cells)
    return table
