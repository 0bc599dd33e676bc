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


class Table(NamedTuple):
    """The titles of the columns, and lines of name, settings and further cells."""

    titles: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    first_merge: int | None = None


def scores_table(scoreboard: Scoreboard) -> Table:
    """One line for each row of the scoreboard."""
    rows, shown = scoreboard.rows, shown_columns(scoreboard)
    by_column = [
        [Cell(row_name(row)) for row in rows],
        [Cell(row_settings(row)) for row in rows],
        *(cells(column, rows) for column in shown),
    ]
    return Table(
        ["model", "settings", *(column.title for column in shown)],
        list(zip(*by_column, strict=True)),
        next((n for n, row in enumerate(rows) if row.kind == MERGE), None),
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
            cell = Cell(text, best=tried.chosen)
            lines.append([Cell(row.name), Cell(tried.label), cell])
    return Table(["model", "settings", "on the items that choose"], lines)


def markdown(table: Table) -> str:
    """The table in Markdown; what is best is bold."""
    lines = [table.titles, ["---", "---", *["---:"] * (len(table.titles) - 2)]]
    lines += [[_in_markdown(cell) for cell in line] for line in table.lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _in_markdown(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} {cell.error}".rstrip().replace("|", "\\|")


def html(table: Table) -> Iterator[str]:
    """The table in HTML; what is best is bold."""
    titles = [f"<th>{escape(title)}</th>" for title in table.titles]
    titles[1] = f'<th class="words">{escape(table.titles[1])}</th>'
    yield f"<table><thead><tr>{''.join(titles)}</tr></thead><tbody>"
    for number, (name, settings, *values) in enumerate(table.lines):
        first = ' class="first"' if number == table.first_merge else ""
        yield (
            f"<tr{first}><th>{_in_html(name)}</th>"
            f'<td class="words">{_in_html(settings)}</td>'
            + "".join(f"<td>{_in_html(value)}</td>" for value in values)
            + "</tr>"
        )
    yield "</tbody></table>"


def _in_html(cell: Cell) -> str:
    text = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
    return f"{text} <small>{escape(cell.error)}</small>" if cell.error else text
