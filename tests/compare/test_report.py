"""What a comparison says: answer, notes, and that every file says the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mergekit_pcb.compare.evaluation import Score
from mergekit_pcb.compare.files import write
from mergekit_pcb.compare.report import Report, all_notes, answer, notes
from mergekit_pcb.compare.scoreboard import (
    BASE,
    EXPERT,
    MERGE,
    Row,
    Scoreboard,
    Tried,
)
from tests.compare.test_scoreboard import BOTH_HIGH, row


def report_of(
    rows: Sequence[Row], how_chosen: str = "", folder: Path = Path("out")
) -> Report:
    inputs = [row for row in rows if row.kind != MERGE]
    about = ("Evaluated by f", how_chosen, {"torch": "2"})
    return Report("r.yml", folder, rows, inputs, *about)


def swept(name: str, *values: float, chosen: int) -> Row:
    tried = [
        Tried(
            f"lambda {value}",
            {"lambda": value},
            {"maths": Score(height, "maths", True)},
            chosen=number == chosen,
        )
        for number, (value, height) in enumerate(
            zip((0.6, 1.0, 1.4), values, strict=True)
        )
    ]
    label = tried[chosen].label
    return row(MERGE, name, values[chosen], tried=tried, label=label)


SWEPT = (
    row(BASE, "base", 0.1),
    row(EXPERT, "<b>", 0.9),
    swept("ties", 0.2, 0.5, 0.4, chosen=1),
    swept("pcb", 0.3, 0.4, 0.6, chosen=2),
)


def test_notes_say_which_items_chose() -> None:
    """The notes name the items that chose, or warn that all are the same."""
    apart = " ".join(notes(report_of(SWEPT, "even items choose, odd ones are shown")))
    assert "even items choose" in apart
    same = " ".join(notes(report_of(SWEPT)))
    assert "look better than they are" in same
    assert "ties: lambda 0.6, 1, 1.4" in " ".join(all_notes(report_of(SWEPT)))
    assert "Chosen at the edge of what was tried: pcb." in same
    few = [*SWEPT, replace(SWEPT[2], name="sce", tried=SWEPT[2].tried[:2])]
    assert "3 tries each, but as many as there are for: sce 2." in " ".join(
        notes(report_of(few))
    )


@pytest.mark.parametrize("low", [False, True])
def test_the_answer_favours_no_method(*, low: bool) -> None:
    """It names the best row, its setting and the next method, whichever they are."""

    def said(**heights: float) -> str:
        rows = [
            row(kind, name, 1 - x if low else x, higher=(not low,), errors=(0.01,))
            for (name, x), kind in zip(
                heights.items(), (EXPERT, MERGE, MERGE), strict=True
            )
        ]
        return answer(Scoreboard(rows))

    high = {False: ("0.800", "0.700", "0.600"), True: ("0.200", "0.300", "0.400")}[low]
    for first, second in (("pcb", "ties"), ("ties", "pcb")):
        assert said(a=0.6, **{first: 0.8, second: 0.7}) == (
            f"Best: {first}, {high[0]}. It is better by 0.100 ± 0.014 than the next "
            f"method, {second}, {high[1]}. It is better by 0.200 ± 0.014 than the "
            f"best of base and experts, expert a, {high[2]}."
        )


def test_the_answer_says_what_is_level() -> None:
    """A difference within twice its standard error, or none at all, is no answer."""
    near = [row(MERGE, "ties", 0.5, errors=(0.3,)), row(MERGE, "pcb", 0.9, errors=(0,))]
    assert answer(Scoreboard(near)) == (
        "Best: pcb, 0.90. The next method, ties, 0.50, is level: the difference, "
        "0.40 ± 0.30, is within twice its standard error."
    )
    same = [row(MERGE, "ties", 0.5), row(MERGE, "pcb", 0.5)]
    assert "The next method, pcb, 0.500, is level." in answer(Scoreboard(same))
    unknown = [row(MERGE, "ties", 0.5), row(MERGE, "pcb", 0.7)]
    assert "by 0.200 (its error is not known) than" in answer(Scoreboard(unknown))


def test_the_answer_says_whether_an_expert_or_the_base_beats_every_merge() -> None:
    """The best of base and experts stands beside the best merge."""
    merge = row(MERGE, "ties", 0.55, errors=(0.001,), label="density 0.2")
    expert = row(EXPERT, "a", 0.6, errors=(0.001,))
    base = row(BASE, "base", 0.7, errors=(0.001,))
    assert answer(Scoreboard([expert, merge])) == (
        "Best: ties with density 0.2, 0.550. But the best of base and experts, expert "
        "a, 0.600, is better than every merge, by 0.050 ± 0.001."
    )
    said = answer(Scoreboard([base, expert, merge]))
    assert "But the best of base and experts, the base, 0.700, is better" in said


def test_without_a_merge_the_answer_says_so() -> None:
    """Nothing to rank, or nothing left."""
    assert "every one of them failed" in answer(Scoreboard([row(BASE, "base", 0.5)]))
    measured = [row(MERGE, "ties", 0.5, higher=(None,))]
    assert "do not say which merge is good" in answer(Scoreboard(measured))


def test_every_file_of_the_report_says_the_same(tmp_path: Path) -> None:
    """Markdown, CSV, JSON and page hold the numbers; the page needs no network."""
    pytest.importorskip("matplotlib", reason="the page's pictures need matplotlib")
    write(report_of(SWEPT, folder=tmp_path))
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| pcb ★ | best of 3: lambda 1.4 | +0.100 | **66.7** | **0.600** |" in text
    assert "| pcb | lambda 1.4 | **0.600** |" in text
    with (tmp_path / "comparison.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["maths"] for line in lines] == ["0.1", "0.9", "0.5", "0.6"]
    assert float(lines[3]["difference to the best peer"]) == pytest.approx(0.1)
    document = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert document["rows"][3]["tried"][2]["chosen"] is True
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 2
    pictures = sorted(tmp_path.glob("*.png"))
    assert [file.name for file in pictures] == ["scores.png", "settings.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in pictures)
    assert "expert &lt;b&gt;" in page
    assert "http" not in page
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"


def test_a_row_that_failed_is_in_every_file(tmp_path: Path) -> None:
    """A method that failed has a row that says why, and no numbers."""
    rows = [*BOTH_HIGH, Row(MERGE, "della", method="della", failed="no epsilon | fits")]
    write(report_of(rows, folder=tmp_path))
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert r"| della | failed: no epsilon \| fits | – | – |" in text
    assert "no epsilon | fits" in (tmp_path / "comparison.html").read_text("utf-8")


@pytest.mark.parametrize("far", [52345.6, 1e300, 1.7e308])
def test_a_merge_that_diverged_hides_nothing(tmp_path: Path, far: float) -> None:
    """The others keep their decimals, and the report has its pictures."""
    low = (False,)
    rows = [
        row(BASE, "base", 10.31, higher=low),
        row(MERGE, "ties", 10.05, higher=low),
        row(MERGE, "pcb", 10.14, higher=low),
        row(MERGE, "linear", far, higher=low),
    ]
    assert "by 0.09" in answer(Scoreboard(rows))
    write(report_of(rows, folder=tmp_path))
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert max(len(cell) for line in table for cell in line.split("|")) < 30
    assert (tmp_path / "scores.png").exists()


def test_recipes_are_named_with_the_seed_of_their_merges() -> None:
    """Methods that draw at random give the same merge with it only."""
    rows = [replace(row(MERGE, "dare_ties", 0.5), recipe="recipes/dare_ties-1.yml")]
    report = replace(report_of(rows), random_seed=7)
    assert (
        "Recipes that mergekit-yaml merges with --random-seed 7: "
        "recipes/dare_ties-1.yml (dare_ties)."
    ) in all_notes(report)


def test_why_there_is_no_answer() -> None:
    """Scores of two directions have no mean, and shares need an expert."""
    mixed = (True, False)
    rows = [
        Row(EXPERT, "a", failed="it is broken"),
        row(MERGE, "ties", 0.4, 5.0, higher=mixed),
    ]
    assert "evaluate by one kind of score" in answer(Scoreboard(rows))
    rows[0] = row(EXPERT, "a", 0.0, 1.0, higher=mixed)
    assert "failed, or are 0 or negative" in answer(Scoreboard(rows))
    plain = [row(MERGE, "ties", 0.4, higher=(None,))]
    assert "evaluate with --tasks or --evaluate" in answer(Scoreboard(plain))
