"""The table of a comparison on a terminal, however narrow."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from mergekit_pcb.compare.columns import (
    Cell,
    cells,
    row_name,
    row_settings,
    shown_columns,
)
from mergekit_pcb.compare.scoreboard import MERGE, Scoreboard

_NAME_WIDTH = 24
_WIDEST_NAME = 44
_GAP = 2


def terminal_table(scoreboard: Scoreboard, width: int) -> tuple[Table, list[str]]:
    """The table in so many characters, and the titles of what did not fit."""
    shown = [
        (column, _texts(cells(column, scoreboard.rows)))
        for column in shown_columns(scoreboard)
    ]
    widths = [
        max(len(column.short), *map(len, texts)) + _GAP for column, texts in shown
    ]
    left_out: list[str] = []
    while len(shown) > 1 and _NAME_WIDTH + sum(widths) > width:
        least = min(range(len(shown)), key=lambda n: (shown[n][0].priority, -n))
        left_out.insert(0, shown.pop(least)[0].title)
        widths.pop(least)
    room = max(min(width - sum(widths) - _GAP, _WIDEST_NAME), 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", overflow="fold")
    for column, _ in shown:
        table.add_column(column.short, justify="right", no_wrap=True)
    for number, row in enumerate(scoreboard.rows):
        if row.kind == MERGE and scoreboard.rows[number - 1].kind != MERGE:
            table.add_section()
        title = Text(row_name(row))
        if settings := row_settings(row):
            title.append(f"\n{_wrapped(settings, room)}", style="dim")
        table.add_row(title, *(texts[number] for _, texts in shown))
    return table, left_out


def _texts(column: Sequence[Cell]) -> list[Text]:
    has_best = any(cell.best for cell in column)
    # Standard errors of scores have no room here; that of the difference matters.
    width = 0 if has_best else max(len(cell.error) for cell in column)
    texts = []
    for cell in column:
        # The star is for those who read the table in a file, where nothing is bold.
        text = Text(cell.text + "* "[not cell.best] * has_best)
        if cell.best:
            text.stylize("bold")
        texts.append(text.append(f" {cell.error:{width}}") if width else text)
    return texts


def _wrapped(words: str, width: int) -> str:
    """Lines that end between one setting and the next, where they can."""
    unbroken = re.sub(r"(?<![,;:]) ", "\xa0", words)
    lines = textwrap.wrap(
        unbroken, width, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\xa0", " ")
