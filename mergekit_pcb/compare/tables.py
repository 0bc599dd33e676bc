"""The tables of a comparison in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from mergekit_pcb.compare.columns import (
    Cell,
    cells,
    row_name,
    row_settings,
    shown_columns,
)
from mergekit_pcb.compare.scoreboard import MERGE, Row, Scoreboard


class Line(NamedTuple):
    """A line of a table; ``is_first_merge`` draws a rule above it."""

    name: str
    settings: str
    cells: Sequence[Cell]
    is_first_merge: bool = False


class Table(NamedTuple):
    """A table: the titles of the columns after the settings, and the lines."""

    titles: Sequence[str]
    lines: Sequence[Line]


def scores_table(scoreboard: Scoreboard) -> Table:
    """One line for each row of the scoreboard."""
    rows, shown = scoreboard.rows, shown_columns(scoreboard)
    by_column = [cells(column, rows) for column in shown]
    first = next((n for n, row in enumerate(rows) if row.kind == MERGE), None)
    return Table(
        [column.title for column in shown],
        [
            Line(
                row_name(row),
                row_settings(row),
                [column[number] for column in by_column],
                number == first,
            )
            for number, row in enumerate(rows)
        ],
    )


def tried_table(rows: Sequence[Row], references: Sequence[Row]) -> Table:
    """Every setting of the rows for which several were tried; maybe no line at all.

    Args:
        rows: of the comparison.
        references: base and experts on the items that choose.
    """
    scoreboard = Scoreboard(references)
    lines = []
    for row in rows:
        for tried in row.tried if len(row.tried) > 1 else ():
            merge = Row(MERGE, row.name, tried.scores)
            mean = scoreboard.mean(merge)
            score = scoreboard.rank_score(merge) if mean is None else mean
            text = tried.failed or ("" if score is None else f"{score:.4f}")
            lines.append(Line(row.name, tried.label, [Cell(text, best=tried.chosen)]))
    return Table(["on the items that choose"], lines)


def markdown(table: Table) -> str:
    """The table in Markdown; what is best is bold."""
    lines = [["model", "settings", *table.titles]]
    lines.append(["---", "---", *["---:"] * len(table.titles)])
    for line in table.lines:
        texts = [
            f"{f'**{cell.text}**' if cell.best else cell.text} {cell.error}".rstrip()
            for cell in line.cells
        ]
        lines.append([line.name, line.settings, *texts])
    return "\n".join(
        "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
        for texts in lines
    )


def html(table: Table) -> Iterator[str]:
    """The table in HTML; what is best is bold."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in table.titles)
    yield f"<table><thead><tr><th>model</th><th></th>{titles}</tr></thead><tbody>"
    for line in table.lines:
        first = ' class="first"' if line.is_first_merge else ""
        values = "".join(f"<td>{_in_html(cell)}</td>" for cell in line.cells)
        yield (
            f"<tr{first}><th>{escape(line.name)}</th>"
            f'<td class="words">{escape(line.settings)}</td>{values}</tr>'
        )
    yield "</tbody></table>"


def _in_html(cell: Cell) -> str:
    text = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
    return f"{text} <small>{escape(cell.error)}</small>" if cell.error else text
