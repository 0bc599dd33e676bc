"""`search --also`: real merges of other methods among the candidates, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mergekit.scripts import run_yaml

from mergekit_pcb.compare.evaluation import Score
from mergekit_pcb.compare.grids import GRIDS
from mergekit_pcb.compare.merge_process import MergeServer
from mergekit_pcb.errors import PCBError
from mergekit_pcb.search.command import search
from mergekit_pcb.search.others import other_merges
from mergekit_pcb.search.run import Search
from mergekit_pcb.search.scores import Scored
from tests import tiny
from tests.search import families
from tests.search.test_command import found_in, measure


def test_the_settings_are_those_of_compare() -> None:
    """As many as the automatic grid has, each with a recipe of its own."""
    recipe = tiny.recipe_of("org/base", ["org/a", "org/b"])
    found = other_merges(recipe, ["ties", "linear", "ties"])
    assert [each.method for each in found] == ["ties"] * 6 + ["linear"] * 6
    ties = {
        (e.recipe["parameters"]["density"], e.recipe["parameters"]["lambda"])
        for e in found[:6]
    }
    grid = GRIDS["ties"]
    assert ties == {(d, x) for d in grid["density"] for x in grid["lambda"]}
    assert len(set(map(str, found))) == 12


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("tise", "did you mean `ties`"),
        ("pcb:model", "every search tries pcb and task_arithmetic"),
        ("task_arithmetic", "every search tries"),
        ("slerp", "takes exactly 2 models"),
    ],
)
def test_methods_that_cannot_be_searched_are_one_line(
    tmp_path: Path, method: str, message: str
) -> None:
    """Before anything begins."""
    recipe = tiny.recipe_of("org/base", ["org/a", "org/b", "org/c"])
    with pytest.raises(PCBError, match=message):
        other_merges(recipe, [method])
    file = tiny.write_recipe(recipe, tmp_path / "r.yml")
    out = tmp_path / "out"
    result = tiny.invoke(search, file, "--out", out, "--also", method)
    assert "--also" in tiny.error_line(result)
    assert not out.exists()


def test_a_method_that_fails_is_left_out() -> None:
    """After three failures, each of which costs a merge; the search goes on."""
    recipe = tiny.recipe_of("org/base", ["org/a", "org/b"])
    asked = []

    def score(name: str, *_: object, counts: bool) -> Scored:
        asked.append(name.partition(",")[0])
        assert not counts, "the whole search does not stop"
        if name.startswith("ties"):
            return Scored({}, "no room")
        return Scored({"loss": Score(float(len(asked)), "loss", False)})

    score.objective = SimpleNamespace(splits=False)
    score.display = SimpleNamespace(scored=lambda *_, **__: None)
    score.new = True
    others = other_merges(recipe, ["ties", "linear"])
    run = Search(recipe, score, None, others=others, merger=SimpleNamespace(options={}))
    notes = list(run._try_others())
    assert asked == ["ties"] * 3 + ["linear"] * 6
    (note,) = notes
    assert note == (
        "ties failed 3 times in a row, and 3 more of its settings were not tried: no "
        "room."
    )


@pytest.mark.slow
def test_another_method_is_found_where_it_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search for a merge by dare_ties finds it, resumed after an interruption."""
    file, _ = families.language_models(tmp_path)
    (start,) = other_merges(yaml.safe_load(file.read_text()), ["dare_ties"])[4:5]
    options = ("--random-seed", 0)
    wanted, _ = tiny.merge(run_yaml.main, start.recipe, tmp_path / "wanted", *options)
    measure(tmp_path, wanted, monkeypatch)
    original, merged = MergeServer.__call__, []

    def interrupted(self: MergeServer, recipe: Path, out: Path) -> object:
        merged.append(recipe)
        if len(merged) == 4:
            raise KeyboardInterrupt
        return original(self, recipe, out)

    monkeypatch.setattr(MergeServer, "__call__", interrupted)
    out = tmp_path / "found"
    options = ("--evaluate", "measure_here:distance", "--also", "dare_ties")
    result = tiny.invoke(search, file, "--out", out, *options)
    assert "the same command goes on" in tiny.error_line(result)
    result = tiny.invoke(search, file, "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert len(merged) == 6 + 1, "the six settings, and the one that was interrupted"
    best = found_in(out)["best"]
    assert best["candidate"] == str(start)
    # What was scored has been loaded and written anew.
    assert best["loss"] == pytest.approx(0, abs=1e-9)
    recipe = yaml.safe_load((out / "best.yml").read_text())
    assert recipe == start.recipe
    assert "merged/ --random-seed 0" in result.stdout
    assert {p.name for p in out.iterdir() if p.is_dir()} == {"runs"}
    lines = (out / "candidates.jsonl").read_text().splitlines()
    names = [json.loads(line)["candidate"] for line in lines]
    assert sum(name.startswith("dare_ties") for name in names) == 6
    page = (out / "search.html").read_text()
    assert page.count("<figure>") == 1
    assert (out / "course.png").stat().st_size > 5000
    assert "Merged by mergekit, 6 times: dare_ties" in page
