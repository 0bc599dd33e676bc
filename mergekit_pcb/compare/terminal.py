"""The table of a comparison on a terminal, however narrow."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergekit_pcb.compare.columns import Column, folded, shown_columns
from mergekit_pcb.compare.files import PAGE, scores_table
from mergekit_pcb.compare.report import Report, answer, notes
from mergekit_pcb.compare.scoreboard import Scoreboard
from mergekit_pcb.output.figures import why_no_figures
from mergekit_pcb.output.table import Cell
from mergekit_pcb.printable import printable

_NAME_WIDTH = 24
_WIDEST_NAME = 44
_GAP = 2
# The priority of seconds, the higher of the two columns that are no scores.
_COSTS = 2


def show(report: Report, *, quiet: bool) -> None:
    """Print answer and table; if not quiet, also the notes and where the files are."""
    screen = Console(highlight=False, markup=False)
    screen.print(printable(answer(report.scoreboard)), style="bold")
    tables, left_out = terminal_tables(report.scoreboard, screen.width)
    for table in tables:
        screen.print(table)
    if quiet:
        return
    if left_out:
        screen.print(printable(f"Not shown here: {'; '.join(left_out)}."))
    for note in notes(report):
        screen.print(printable(note), style="dim")
    out = report.folder
    missing = why_no_figures()
    pictures = "" if missing else "; pictures beside it"
    screen.print(f"Report: {out / PAGE}, and as .md, .csv and .json{pictures}")
    best = report.scoreboard.best(report.scoreboard.merges)
    if best and best.recipe:
        seed = f"--random-seed {report.random_seed}"
        screen.print(f"Recipe of {best.name}, with {seed}: {out / best.recipe}")
    for row in report.rows:
        if row.model and (out / row.model).exists():
            screen.print(f"Model of {row.name}: {out / row.model}")
    if report.failed:
        screen.print(f"What failed is told in full in {out / 'log.txt'}.")
    if missing:
        screen.print(missing)


def terminal_tables(
    scoreboard: Scoreboard, width: int
) -> tuple[list[Table], list[str]]:
    """The table in so many characters, and the titles of what was left out.

    What does not fit is left out if it is no score; scores that do not fit stand in
    more tables below the first, which has the summary.
    """
    columns = [
        _shown(column, texts)
        for column, texts in zip(
            shown_columns(scoreboard),
            map(_texts, list(zip(*scores_table(scoreboard).rows, strict=True))[2:]),
            strict=True,
        )
    ]
    left_out: list[str] = []
    space = width - _NAME_WIDTH
    while sum(column.width for column in columns) > space:
        least = min(columns, key=lambda shown: shown.column.priority)
        if least.column.priority > _COSTS:
            break
        columns.remove(least)
        left_out.insert(0, least.column.title)
    groups: list[list[_Shown]] = [[]]
    for shown in columns:
        if groups[-1] and sum(c.width for c in groups[-1]) + shown.width > space:
            groups.append([])
        groups[-1].append(shown)
    # A search has many rows of one name.
    alike = len({row.name for row in scoreboard.rows}) < len(scoreboard.rows)
    tables = [
        _table(scoreboard, group, width, with_settings=alike or group is groups[0])
        for group in groups
    ]
    return tables, left_out


class _Shown(NamedTuple):
    """A column, its title, its text for each row, and its width in characters."""

    column: Column
    title: str
    texts: list[Text]
    width: int


def _shown(column: Column, texts: list[Text]) -> _Shown:
    title = folded(printable(column.short))
    width = max(*map(len, title.splitlines()), *map(len, texts)) + _GAP
    return _Shown(column, title, texts, width)


def _table(
    scoreboard: Scoreboard, shown: Sequence[_Shown], width: int, *, with_settings: bool
) -> Table:
    scores = scores_table(scoreboard)
    used = sum(column.width for column in shown)
    room = max(min(width - used - _GAP, _WIDEST_NAME), 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", overflow="fold")
    for column in shown:
        table.add_column(column.title, justify="right", no_wrap=True, vertical="bottom")
    for number, (name, words, *_) in enumerate(scores.rows):
        if number == scores.section:
            table.add_section()
        title = Text(printable(name))
        if words and with_settings:
            title.append(f"\n{_wrapped(printable(words), room)}", style="dim")
        table.add_row(title, *(column.texts[number] for column in shown))
    return table


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
