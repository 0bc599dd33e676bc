"""The table of a comparison on a terminal, however narrow."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergekit_pcb.compare.columns import shown_columns
from mergekit_pcb.compare.files import PAGE, scores_table
from mergekit_pcb.compare.report import Report, notes, verdict
from mergekit_pcb.compare.scoreboard import Scoreboard
from mergekit_pcb.output.figures import why_no_figures
from mergekit_pcb.output.table import Cell

_NAME_WIDTH = 24
_WIDEST_NAME = 44
_GAP = 2


def show(report: Report, *, quiet: bool) -> None:
    """Print table and verdict; if not quiet, also the notes and where the files are."""
    screen = Console(highlight=False, markup=False)
    table, left_out = terminal_table(report.scoreboard, screen.width)
    screen.print(table)
    screen.print(verdict(report.scoreboard))
    if quiet:
        return
    screen.print()
    if left_out:
        screen.print(f"Not shown here: {'; '.join(left_out)}.")
    for note in notes(report):
        # Every setting is in the files.
        if not note.startswith("Tried: "):
            screen.print(note, style="dim")
    out = report.folder
    missing = why_no_figures()
    pictures = "" if missing else "; pictures beside it"
    screen.print(f"Report: {out / PAGE}, and as .md, .csv and .json{pictures}")
    for row in report.rows:
        if row.model and (out / row.model).exists():
            screen.print(f"Model of {row.name}: {out / row.model}")
    if any(row.failed for row in report.rows):
        screen.print(f"What failed is told in full in {out / 'log.txt'}.")
    if missing:
        screen.print(missing)


def terminal_table(scoreboard: Scoreboard, width: int) -> tuple[Table, list[str]]:
    """The table in so many characters, and the titles of what did not fit."""
    scores = scores_table(scoreboard)
    names, settings, *columns = zip(*scores.rows, strict=True)
    shown = list(zip(shown_columns(scoreboard), map(_texts, columns), strict=True))
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
    for number, (name, words) in enumerate(zip(names, settings, strict=True)):
        if number == scores.section:
            table.add_section()
        title = Text(name)
        if words:
            title.append(f"\n{_wrapped(words, room)}", style="dim")
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
