"""The files of a comparison: page, Markdown, CSV, JSON, and the pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from mergekit_pcb.compare.columns import (
    Column,
    cells,
    columns,
    mean_digits,
    row_names,
    row_settings,
    shown_columns,
)
from mergekit_pcb.compare.figures import NAMES, pictures
from mergekit_pcb.compare.report import Report, all_notes, answer
from mergekit_pcb.compare.scoreboard import MERGE, Row, Scoreboard
from mergekit_pcb.output.figures import Picture, why_no_figures
from mergekit_pcb.output.html import escaped, figure, page
from mergekit_pcb.output.report_files import write_report
from mergekit_pcb.output.table import Cell, Table, as_csv, html, markdown, markdown_text

PAGE = "comparison.html"


def write(report: Report) -> None:
    """Write every file of the report; without matplotlib it has no pictures."""
    drawn: list[Picture] = []
    if not why_no_figures():
        drawn = pictures(report.scoreboard, Scoreboard(report.references))
    contents = {
        PAGE: page(report.title, _page_body(report, drawn)),
        "comparison.md": _as_markdown(report),
        "comparison.csv": _scores_csv(report.scoreboard),
        "comparison.json": _as_json(report),
    }
    write_report(report.folder, contents, drawn, NAMES)


def scores_table(scoreboard: Scoreboard) -> Table:
    """One line for each row of the scoreboard."""
    rows, shown = scoreboard.rows, shown_columns(scoreboard)
    by_column = [
        row_names(scoreboard),
        map(row_settings, rows),
        *(cells(column, rows) for column in shown),
    ]
    return Table(
        "",
        ["model", "settings", *(column.title for column in shown)],
        list(zip(*by_column, strict=True)),
        words=1,
        section=next((n for n, row in enumerate(rows) if row.kind == MERGE), None),
    )


def tried_table(rows: Sequence[Row], references: Sequence[Row]) -> Table:
    """Every setting of the rows for which several were tried; maybe no line at all.

    Args:
        rows: of the comparison.
        references: base and experts on the items that choose.
    """
    merges = [
        (Row(MERGE, row.name, tried.scores, row.method), tried)
        for row in rows
        for tried in (row.tried if len(row.tried) > 1 else ())
    ]
    scoreboard = Scoreboard([*references, *(row for row, _ in merges)])
    decimals = mean_digits(scoreboard)
    lines: list[Sequence[Any]] = []
    for row, tried in merges:
        score = scoreboard.score(row)
        text = tried.failed or ("" if score is None else f"{score:.{decimals}f}")
        lines.append([row.name, tried.label, Cell(text, best=tried.chosen)])
    return Table("", ["model", "settings", "on the items that choose"], lines, words=1)


def _page_body(report: Report, drawn: Sequence[Picture]) -> Iterator[str]:
    yield f'<p class="answer">{escaped(answer(report.scoreboard))}</p>'
    yield html(scores_table(report.scoreboard))
    for picture in drawn:
        yield figure(picture)
    yield "<h2>How to read it</h2>\n<ul>"
    for note in all_notes(report):
        yield f"<li>{escaped(note)}</li>"
    yield "</ul>"
    tried = tried_table(report.rows, report.references)
    if tried.rows:
        yield "<details><summary>Every setting tried</summary>"
        yield html(tried)
        yield "</details>"
    yield f"<footer>{escaped(_conditions(report))}</footer>"


def _as_markdown(report: Report) -> str:
    lines = [f"# {markdown_text(report.title)}", ""]
    lines += [markdown_text(answer(report.scoreboard)), ""]
    lines += [markdown(scores_table(report.scoreboard)), ""]
    lines += [f"* {markdown_text(note)}" for note in all_notes(report)]
    tried = tried_table(report.rows, report.references)
    if tried.rows:
        lines += ["", "## Every setting tried", "", markdown(tried)]
    return "\n".join([*lines, "", _conditions(report), ""])


def _conditions(report: Report) -> str:
    return ", ".join(f"{name} {value}" for name, value in report.conditions.items())


def _scores_csv(scoreboard: Scoreboard) -> str:
    shown = columns(scoreboard)
    return as_csv(
        [
            {
                "kind": row.kind,
                "name": row.name,
                "method": row.method,
                "settings": row.label,
                "failed": row.failed,
                **_values(row, shown, ", standard error"),
            }
            for row in scoreboard.rows
        ]
    )


def _as_json(report: Report) -> str:
    scoreboard = report.scoreboard
    # The tasks' columns are in `scores`, under names that the user chooses.
    others = columns(scoreboard)[len(scoreboard.tasks) :]
    rows = []
    for row in scoreboard.rows:
        values = _values(row, others, " error")
        named = {key.replace(" ", "_"): value for key, value in values.items()}
        rows.append({**asdict(row, dict_factory=_without_items), **named})
    document = {
        "recipe": report.recipe,
        "answer": answer(scoreboard),
        "tasks": {
            task: {"higher_is_better": scoreboard.higher_is_better(task)}
            for task in scoreboard.tasks
        },
        "rows": rows,
        "notes": list(all_notes(report)),
        "conditions": report.conditions,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _values(row: Row, of: Sequence[Column], error_suffix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column in of:
        values[column.key] = column.value(row)
        if column.error:
            values[column.key + error_suffix] = column.error(row)
    return values


def _without_items(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if name != "items"}
