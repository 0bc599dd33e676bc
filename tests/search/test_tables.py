"""The tables and the picture of a search, from made-up scores."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from mergekit_pcb.compare.evaluation import ALL, Score, standard_error
from mergekit_pcb.search.figures import _worst_shown, pictures
from mergekit_pcb.search.outcome import Outcome, Tried
from mergekit_pcb.search.report import Report
from mergekit_pcb.search.scores import Scored
from mergekit_pcb.search.space import PCB, RECIPE, Candidate, Setting
from mergekit_pcb.search.tables import found_table, shown_table, spread_of_weights
from mergekit_pcb.search.weights import population
from tests import tiny

SETTING = Setting(PCB, 0.2, "tensor")
# Of the items of a candidate.
SPREAD = (-0.3, -0.1, 0.1, 0.3)


def tried(candidate: Candidate, loss: float, shift: float = 0.0) -> Tried:
    """Its items are near those of others: paired differences are nearly ``shift``."""
    items = [loss + x + shift * (-1) ** i for i, x in enumerate(SPREAD)]
    score = Score(loss, "loss", False, standard_error(items), items)
    return Tried(candidate, Scored({"task": score}))


def report(*, factors: bool = True) -> Report:
    start = tried(Candidate(Setting(RECIPE)), 2.0, 0.05)
    grid = [
        tried(Candidate(SETTING, 0.7), 1.51, 0.01),
        tried(Candidate(SETTING, 1.0), 1.5),
        tried(Candidate(SETTING, 1.4), 1.8, 0.02),
        tried(Candidate(Setting(PCB, 0.7, "tensor"), 1.0), 9.0),
    ]
    points = [(1.0 + i / 10, 0.5 + i / 20) for i in range(9)]
    own = [
        tried(Candidate(SETTING, 1.0, p), 1.4 - i / 100) for i, p in enumerate(points)
    ]
    everything = [start, *grid, *(own if factors else ())]
    best = everything[-1] if factors else grid[1]
    shown = {t.candidate: t.scored for t in (start, grid[1], best)}
    base = tried(Candidate(Setting("base")), 3.0).scored
    outcome = Outcome(everything, best, grid[1], base, shown, ALL)
    about: dict[str, Any] = {"evaluated": "By hand", "how_chosen": "", "inputs": {}}
    recipe = tiny.recipe_of("org/base", ["org/a", "org/b"])
    more = {"models": ["a", "b"], "random_seed": 0, "seed": 0, "conditions": {}}
    return Report("r.yml", "pcb", recipe, Path(), outcome, **about, **more)


def test_differences_are_paired() -> None:
    """The error of a difference is that of the items', not of two samples."""
    start, equal, found = shown_table(report()).rows
    assert [row[0] for row in (start, equal, found)] == [
        "start",
        "equal weights",
        "found",
    ]
    assert start[2].text.startswith("2.00")
    assert float(start[2].error.removeprefix("± ")) > 0.1
    assert start[3].text == "+0.68"
    assert float(start[3].error.removeprefix("± ")) == pytest.approx(0.029, abs=1e-3)
    assert found[3].text == "–"


def test_without_other_weights_found_is_the_best_of_equal_weights() -> None:
    """One row says both."""
    rows = shown_table(report(factors=False)).rows
    assert [row[0] for row in rows] == ["start", "equal weights = found"]
    assert spread_of_weights(report(factors=False)) == []


def test_what_is_level_is_told_at_equal_weights() -> None:
    """Within two standard errors of the same setting with the recipe's weights."""
    rows = {row[0]: row[1:] for row in found_table(report()).rows}
    assert rows["density"] == ["0.2", "0.2"]
    assert rows["lambda"] == ["1", "0.7, 1"]
    assert rows["weight of a"][0] == "1.8"
    last = [1.0 + i / 10 for i in range(9)][-population(2) :]
    mean, error = statistics.fmean(last), statistics.stdev(last)
    assert f"factor {mean:.3g} ± {error:.2g}" in rows["weight of a"][1]


def test_the_picture_shows_what_was_best_so_far() -> None:
    """A line that never rises; what is far off is a triangle at the edge."""
    pytest.importorskip("matplotlib", reason="needs the extra [report]")
    made = report()
    (picture,) = pictures(made)
    assert "lower is better" in picture.caption
    assert "Triangles" in picture.caption
    (axes,) = picture.draw().axes
    lines = {str(line.get_label()): line for line in axes.lines}
    best = list(lines["best so far"].get_ydata())
    assert best == sorted(best, reverse=True)
    assert best[-1] == made.outcome.best.loss
    worst = _worst_shown(made.outcome.tried)
    assert worst < 9
    beyond = [line for line in axes.lines if line.get_marker() == "^"]
    assert [list(line.get_ydata()) for line in beyond] == [[worst]]
