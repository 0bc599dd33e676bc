"""The report of a comparison as a page for a browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from mergekit_pcb.compare.scoreboard import MERGE, Scoreboard
from mergekit_pcb.compare.table import Column, attempts, columns, name, settings
from mergekit_pcb.output.figures import Picture
from mergekit_pcb.output.html import figure, page

if TYPE_CHECKING:
    from mergekit_pcb.compare.report import Report


def compare_page(
    report: Report, verdict: str, notes: Sequence[str], drawn: Sequence[Picture]
) -> str:
    """The whole page."""
    return page(report.title, _body(report, verdict, notes, drawn))


def _body(
    report: Report, verdict: str, notes: Sequence[str], drawn: Sequence[Picture]
) -> Iterator[str]:
    yield f'<p class="verdict">{escape(verdict)}</p>'
    yield from _table(report.scoreboard)
    for picture in drawn:
        yield figure(picture)
    yield "<h2>How to read it</h2>\n<ul>"
    for note in notes:
        yield f"<li>{escape(note)}</li>"
    yield "</ul>"
    yield from _tried(report)
    conditions = ", ".join(f"{k} {v}" for k, v in report.conditions.items())
    yield f"<footer>{escape(conditions)}</footer>"


def _table(scoreboard: Scoreboard) -> Iterator[str]:
    found = columns(scoreboard)
    titles = "".join(f"<th>{escape(column.title)}</th>" for column in found)
    yield '<div class="scroll"><table>'
    yield f"<thead><tr><th>model</th><th></th>{titles}</tr></thead><tbody>"
    before = ""
    for number, row in enumerate(scoreboard.rows):
        first = ' class="first"' if row.kind == MERGE and before != MERGE else ""
        before = row.kind
        cells = "".join(f"<td>{_cell(column, number)}</td>" for column in found)
        yield (
            f"<tr{first}><th>{escape(name(row))}</th>"
            f'<td class="words">{escape(settings(row))}</td>{cells}</tr>'
        )
    yield "</tbody></table></div>"


def _cell(column: Column, number: int) -> str:
    cell = escape(column.cells[number])
    if number in column.best:
        cell = f"<b>{cell}</b>"
    detail = column.details[number] if column.details else ""
    return f"{cell} <small>{escape(detail)}</small>" if detail else cell


def _tried(report: Report) -> Iterator[str]:
    found = attempts(report.rows, report.references)
    if not found:
        return
    yield "<details><summary>Every setting tried</summary><table><thead>"
    yield "<tr><th>merge</th><th></th><th>on the items that choose</th></tr></thead>"
    yield "<tbody>"
    for merge, label, result, chosen in found:
        cell = f"<b>{escape(result)}</b>" if chosen else escape(result)
        yield (
            f'<tr><th>{escape(merge)}</th><td class="words">'
            f"{escape(label)}</td><td>{cell}</td></tr>"
        )
    yield "</tbody></table></details>"
