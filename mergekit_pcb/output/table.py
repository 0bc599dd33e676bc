"""Tables as text for files: Markdown, HTML and CSV.

Cells are text, not Markdown or HTML: whatever stands in a name is shown as it is.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mergekit_pcb.output.html import escaped
from mergekit_pcb.printable import printable

# What begins or ends something in Markdown. An underscore inside a word does not.
_MARKDOWN = re.compile(r"[\\`|<*\[~&]|\b_|_\b")


class Cell(NamedTuple):
    """A value as it is shown, its standard error, and whether it is the best."""

    text: str
    error: str = ""
    best: bool = False


class Table(NamedTuple):
    """A table.

    Attributes:
        title: stands above it on a page and on a terminal, if there is one.
        headings: of all columns; the first column holds the labels of the rows.
        rows: label, and text or `Cell` of the other columns; what belongs to the row
            above is indented by two spaces, and a row that has no cells is a heading.
        words: number of the column of words, which may be wrapped or shortened.
        section: number of the row above which a page has a line.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    words: int = 0
    section: int | None = None


def markdown(table: Table) -> str:
    """The table in Markdown, without its title; what is best is bold."""

    def shown(cell: str | Cell) -> str:
        text, error, best = Cell(cell) if isinstance(cell, str) else cell
        text = markdown_text(text)
        return f"{f'**{text}**' if best else text} {markdown_text(error)}".rstrip()

    columns = range(len(table.headings))
    rule = ["---" if n in (0, table.words) else "---:" for n in columns]
    headings = map(markdown_text, table.headings)
    lines = [headings, rule, *(map(shown, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    r"""Text that Markdown shows as it is, in a table or elsewhere.

    Example:
        >>> markdown_text("<b> a|b, a_b")
        '\\<b> a\\|b, a_b'
    """
    return _MARKDOWN.sub(r"\\\g<0>", printable(text))


def html(table: Table) -> str:
    """The table in HTML; what is best is bold."""

    def shown(cell: str | Cell) -> str:
        text, error, best = Cell(cell) if isinstance(cell, str) else cell
        text = f"<b>{escaped(text)}</b>" if best else escaped(text)
        return f"{text} <small>{escaped(error)}</small>" if error else text

    def line(tag: str, cells: Iterable[str | Cell]) -> str:
        kinds = ("", ' class="words"')
        return "".join(
            f"<{tag}{kinds[n == table.words]}>{shown(cell)}</{tag[:2]}>"
            for n, cell in enumerate(cells, start=1)
        )

    corner, *headings = table.headings
    lines = [
        '<div class="scroll"><table>',
        f"<caption>{escaped(table.title)}</caption>" if table.title else "",
        f"<thead><tr><th>{escaped(corner)}</th>",
        line('th scope="col"', headings),
        "</tr></thead><tbody>",
    ]
    for number, (label, *cells) in enumerate(table.rows):
        first = ' class="first"' * (number == table.section)
        member = ' class="member"' * label.startswith("  ")
        lines += [
            f'<tr{first}><th scope="row"{member}>{escaped(label.strip())}</th>',
            line("td", cells + [""] * (len(headings) - len(cells))),
            "</tr>",
        ]
    return "".join([*lines, "</tbody></table></div>"])


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines of values by column, which all lines have, as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
