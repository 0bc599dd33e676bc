"""The files of a comparison: page, Markdown, CSV, JSON, and the pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.compare.columns import Column, columns, summary_columns
from mergekit_pcb.compare.figures import NAMES, pictures
from mergekit_pcb.compare.report import Report, notes, verdict
from mergekit_pcb.compare.scoreboard import Row, Scoreboard
from mergekit_pcb.compare.tables import html, markdown, scores_table, tried_table
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.figures import Picture, require_matplotlib
from mergekit_pcb.output.html import figure, page

PAGE = "comparison.html"


def no_pictures() -> str:
    """Why there cannot be pictures, or nothing if there can be."""
    try:
        require_matplotlib()
    except PCBError as error:
        return error.message
    return ""


def write(report: Report) -> None:
    """Write every file of the report; without matplotlib it has no pictures."""
    drawn: list[Picture] = []
    if not no_pictures():
        drawn = pictures(report.scoreboard, Scoreboard(report.references))
    contents: dict[str, str | bytes] = {
        PAGE: page(report.title, _page_body(report, drawn)),
        "comparison.md": _as_markdown(report),
        "comparison.csv": _as_csv(report.scoreboard),
        "comparison.json": _as_json(report),
    }
    contents |= {f"{picture.name}.png": picture.png() for picture in drawn}
    for stale in NAMES:
        (report.folder / f"{stale}.png").unlink(missing_ok=True)
    for name, content in contents.items():
        write_file(report.folder / name, content)


def _page_body(report: Report, drawn: Sequence[Picture]) -> Iterator[str]:
    yield f'<p class="verdict">{escape(verdict(report.scoreboard))}</p>'
    yield '<div class="scroll">'
    yield from html(scores_table(report.scoreboard))
    yield "</div>"
    for picture in drawn:
        yield figure(picture)
    yield "<h2>How to read it</h2>\n<ul>"
    for note in notes(report):
        yield f"<li>{escape(note)}</li>"
    yield "</ul>"
    tried = tried_table(report.rows, report.references)
    if tried.lines:
        yield "<details><summary>Every setting tried</summary>"
        yield from html(tried)
        yield "</details>"
    yield f"<footer>{escape(_conditions(report))}</footer>"


def _as_markdown(report: Report) -> str:
    lines = [f"# {report.title}", "", verdict(report.scoreboard), ""]
    lines += [markdown(scores_table(report.scoreboard)), ""]
    lines += [f"* {note}" for note in notes(report)]
    tried = tried_table(report.rows, report.references)
    if tried.lines:
        lines += ["", "## Every setting tried", "", markdown(tried)]
    return "\n".join([*lines, "", _conditions(report), ""])


def _conditions(report: Report) -> str:
    return ", ".join(f"{name} {value}" for name, value in report.conditions.items())


def _as_csv(scoreboard: Scoreboard) -> str:
    lines = [
        {
            "kind": row.kind,
            "name": row.name,
            "method": row.method,
            "settings": row.label,
            "failed": row.failed,
            **_values(row, columns(scoreboard), ", standard error"),
        }
        for row in scoreboard.rows
    ]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _as_json(report: Report) -> str:
    scoreboard = report.scoreboard
    # The tasks' columns are in `scores`, under names that the user chooses.
    others = summary_columns(scoreboard)
    rows = []
    for row in scoreboard.rows:
        values = _values(row, others, " error")
        named = {key.replace(" ", "_"): value for key, value in values.items()}
        rows.append({**_without_items(asdict(row)), **named})
    document = {
        "recipe": report.recipe,
        "verdict": verdict(scoreboard),
        "tasks": {
            task: {"higher_is_better": scoreboard.higher_is_better(task)}
            for task in scoreboard.tasks
        },
        "rows": rows,
        "notes": list(notes(report)),
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


def _without_items(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_items(v) for k, v in value.items() if k != "items"}
    if isinstance(value, (list, tuple)):
        return [_without_items(item) for item in value]
    return value
