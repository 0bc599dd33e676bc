"""Searches of language models with and without labels, as a user would run them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from experiments import bits_per_byte, language_search
from experiments.suites.language import Language
from experiments.suites.suite import Place, Training
from mergekit_pcb.cli import main
from mergekit_pcb.compare import grids
from mergekit_pcb.search import run
from mergekit_pcb.search.space import settings
from tests.experiments.test_language import place as place  # a fixture

TASKS = ("swedish", "reviews")


@pytest.fixture
def commands(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands run in this process, where texts and grids are small; their names."""
    asked = []

    def in_process(place: Place, folder: Path, *words: str) -> None:
        command, out, *options = words
        asked.append(f"{command} {out}")
        monkeypatch.setenv("SUITES", str(place.work))
        before = Path.cwd()
        os.chdir(folder)
        try:
            code = [command, "recipe.yml", "--out", out, *options, "--quiet"]
            result = CliRunner().invoke(main, code, catch_exceptions=False)
        finally:
            os.chdir(before)
        assert result.exit_code == 0, result.output

    def small() -> list:
        return settings([0.2], ["tensor"])

    monkeypatch.setattr(language_search, "_run", in_process)
    for module in (language_search, bits_per_byte):
        monkeypatch.setattr(module, "TASKS", TASKS)
    monkeypatch.setattr(run, "settings", small)
    monkeypatch.setitem(grids.GRIDS, "ties", {"lambda": (0.5, 1.0)})
    monkeypatch.setitem(grids.GRIDS, "dare_ties", {"lambda": (0.5, 1.0)})
    training = Training(steps=4, batch=2, rate=1e-2)
    monkeypatch.setattr(Language, "training", training, raising=False)
    return asked


@pytest.mark.slow
def test_what_each_way_chooses(place: Place, commands: list[str]) -> None:
    """Rows are what the commands showed of test texts; nothing is run twice."""
    case = {"suite": "language", "group": "2 models", "seed": 0, "tasks": list(TASKS)}
    found = language_search.measure(case, place)
    assert commands == [
        "search without-labels",
        "search by-labels",
        "compare untuned",
        "compare peers",
    ]
    assert [(row["from"], row["by"]) for row in found["rows"]] == [
        ("pcb", "nothing (untuned)"),
        ("task_arithmetic", "nothing (untuned)"),
        ("search", "agreement, no inputs"),
        ("search", "labels"),
        ("dare_ties, 6 tries", "labels"),
        ("ties, 6 tries", "labels"),
    ]
    folder = place.work / "searches" / "language-seed0"
    shown = json.loads((folder / "by-labels" / "search.json").read_text())["shown"]
    start, *_, labels = shown["rows"]
    tests = {row["from"]: row["test"] for row in found["rows"] if row["by"] != "labels"}
    # The recipe as it stands is untuned pcb, made in memory and by mergekit.
    assert tests["pcb"] == pytest.approx(start["loss"], abs=1e-5)
    assert found["rows"][3]["test"] == pytest.approx(labels["loss"], abs=1e-6)
    assert -1 <= found["rank correlation"] <= 1


def test_table_is_of_differences_from_labels() -> None:
    """Means and standard errors over seeds, worked out by hand."""

    def of_seed(agreement: float, labels: float) -> tuple[dict, dict]:
        rows = [
            {"from": "search", "by": "agreement", "settings": "a", "test": agreement},
            {"from": "search", "by": "labels", "settings": "b", "test": labels},
        ]
        return {}, {"rows": rows, "rank correlation": 0.5}

    lines = list(language_search.table([of_seed(1.5, 1.4), of_seed(1.7, 1.4)]))
    assert lines[2:4] == [
        "| search | agreement | 1.6000 | 0.1000 | +0.2000 | 0.1000 | a; a |",
        "| search | labels | 1.4000 | 0.0000 | +0.0000 | 0.0000 | b; b |",
    ]
    assert lines[-1].endswith("each seed: 0.50, 0.50.")
