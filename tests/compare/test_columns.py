"""The columns of a comparison: declared once, shown in five places."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mergekit_pcb.compare import columns as columns_module
from mergekit_pcb.compare.columns import Column
from mergekit_pcb.compare.evaluation import Score
from mergekit_pcb.compare.files import write
from mergekit_pcb.compare.report import Report
from mergekit_pcb.compare.scoreboard import BASE, EXPERT, MERGE, Row, Scoreboard
from mergekit_pcb.compare.terminal import terminal_tables


def row(kind: str, name: str, *scores: float, **more: float) -> Row:
    found = {
        f"task{number}": Score(value, "accuracy", True, 0.01)
        for number, value in enumerate(scores)
    }
    method = name if kind == MERGE else ""
    return Row(kind, name, found, method, **more)  # type: ignore[arg-type]


ROWS = [
    row(BASE, "base", 0.2, 0.3),
    row(EXPERT, "expert", 0.8, 0.4),
    row(MERGE, "ties", 0.5, 0.6, seconds=3.0, peak_bytes=2e9),
    row(MERGE, "pcb", 0.7, 0.5, seconds=4.0, peak_bytes=3e9),
]


def write_report(folder: Path) -> None:
    about = ("Evaluated by f", "", {"torch": "2"})
    write(Report("r.yml", folder, ROWS, ROWS[:2], *about))


def on_a_terminal(width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in terminal_tables(Scoreboard(ROWS), width)[0]:
        console.print(table)
    return console.export_text()


def test_a_column_is_declared_in_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more in the list is one more on the terminal and in each of the files."""
    letters = Column(
        key="letters in name",
        value=lambda row: len(row.name) if row.kind == MERGE else None,
        error=lambda row: 0.25 if row.name == "pcb" else None,
        title="letters",
        short="abc",
        text="{:.2f}".format,
        higher_is_better=False,
        priority=0,
    )
    before = columns_module.summary_columns
    monkeypatch.setattr(
        columns_module, "summary_columns", lambda of: [*before(of), letters]
    )
    write_report(tmp_path)
    header, *lines = on_a_terminal(120).splitlines()[1:]
    assert header.split()[-1] == "abc"
    assert [line.split()[-1] for line in lines if "ties" in line] == ["4.00"]
    assert [line.split()[-1] for line in lines if "pcb" in line] == ["3.00*"]
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| GB | letters |\n" in text
    assert "| 3.0 | **3.00** ± 0.25 |\n" in text
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert '<th scope="col">letters</th>' in page
    assert "<td><b>3.00</b> <small>± 0.25</small></td>" in page
    with (tmp_path / "comparison.csv").open(encoding="utf-8") as file:
        pcb = list(csv.DictReader(file))[3]
    assert pcb["letters in name"] == "3"
    assert pcb["letters in name, standard error"] == "0.25"
    document = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert document["rows"][3]["letters_in_name"] == 3
    assert document["rows"][3]["letters_in_name_error"] == 0.25
    assert document["rows"][0]["letters_in_name"] is None


def test_the_files_for_programs_have_every_column(tmp_path: Path) -> None:
    """CSV and JSON have full precision, errors, and what no table has room for."""
    write_report(tmp_path)
    with (tmp_path / "comparison.csv").open(encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
    assert reader.fieldnames == [
        *("kind", "name", "method", "settings", "failed"),
        *("task0", "task0, standard error", "task1", "task1, standard error"),
        *("mean", "mean, standard error", "percent of own expert"),
        "difference to the best peer",
        "difference to the best peer, standard error",
        *("best peer", "seconds", "peak bytes"),
    ]
    assert lines[3]["best peer"] == "ties"
    assert lines[0]["best peer"] == lines[0]["seconds"] == ""
    rows = json.loads((tmp_path / "comparison.json").read_text("utf-8"))["rows"]
    assert rows[3]["mean"] == float(lines[3]["mean"]) == pytest.approx(0.6)
    assert rows[3]["mean_error"] == pytest.approx(0.01 / 2**0.5)
    assert rows[3]["percent_of_own_expert"] == pytest.approx(106.25)
    assert rows[3]["difference_to_the_best_peer"] == pytest.approx(0.05)
    assert rows[3]["best_peer"] == "ties"
    assert rows[3]["scores"]["task1"]["value"] == 0.5
    assert rows[3]["peak_bytes"] == 3e9
    assert "items" not in rows[3]["scores"]["task1"]


def test_a_column_without_a_value_is_in_no_table() -> None:
    """CSV and JSON have it all the same, empty, so that programs may rely on it."""
    assert "GB" in on_a_terminal(120)
    titles = [c.title for c in columns_module.shown_columns(Scoreboard(ROWS[:2]))]
    assert titles == [
        "mean",
        "% of own expert",
        "task0, accuracy ↑",
        "task1, accuracy ↑",
    ], "the summary comes first"
