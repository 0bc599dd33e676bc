"""`mergekit-pcb search` as it is called: whole runs, resumed runs, wrong use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit.scripts import run_yaml

from mergekit_pcb.search import command, run, scores
from mergekit_pcb.search.command import search
from mergekit_pcb.search.space import DENSITIES, LAMBDA_FACTORS
from mergekit_pcb.search.weights import population
from tests import tiny
from tests.search import families

MEASURE = """
import json, torch
from pathlib import Path
from safetensors.torch import load_file

WANTED = load_file("{wanted}/model.safetensors")

def distance(folder):
    found = load_file(Path(folder) / "model.safetensors")
    names = [n for n in WANTED if n in found]
    return {{"loss": sum((found[n] - WANTED[n]).square().sum().item() for n in names)}}

def never(folder):
    raise ValueError("no such benchmark")

def nan(folder):
    return {{"loss": float("nan")}}

def flat(folder):
    return {{"loss": [1.0, 2.0, 3.0]}}
"""


def measure(folder: Path, wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "measure_here.py").write_text(MEASURE.format(wanted=wanted))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(__import__("sys").modules, "measure_here", raising=False)


def found_in(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "search.json").read_text())
    return document


def test_without_anything_else_it_finds_a_recipe(tmp_path: Path) -> None:
    """The best of the grid is written; plain mergekit merges it to what was scored."""
    file, _ = families.language_models(tmp_path)
    out = tmp_path / "found"
    result = tiny.invoke(search, file, "--out", out, "--count", 4)
    assert result.exit_code == 0, result.output
    document = found_in(out)
    first = result.stdout.splitlines()[0]
    assert first == document["answer"]
    assert first.startswith("Best: ")
    assert "is better)" in first
    assert "±" in first
    tried = document["tried"]
    grid = (1 + 2 * len(DENSITIES)) * len(LAMBDA_FACTORS)
    assert 1 + grid < len(tried) <= 1 + grid + 8
    best = min(tried, key=lambda each: each["loss"])
    assert best == document["best"]
    assert {each["method"] for each in tried} == {"recipe", "pcb", "task_arithmetic"}
    recipe = yaml.safe_load((out / "best.yml").read_text())
    assert recipe["merge_method"] in ("pcb", "task_arithmetic")
    assert recipe["parameters"]["lambda"] == best["lambda"]
    merged, _ = tiny.merge(run_yaml.main, recipe, tmp_path / "merged")
    assert tiny.read(merged)
    lines = (out / "candidates.jsonl").read_text().splitlines()
    assert len(lines) == len(tried) + 1  # and the base
    assert {p.name for p in out.iterdir() if p.is_dir()} == {"runs"}


@pytest.mark.slow
def test_the_same_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C what is scored stays; the result is that of a whole run."""
    file, _ = families.language_models(tmp_path)
    options = ("--count", 4, "--quiet")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tiny.invoke(search, file, "--out", whole, *options)
    original, seen = scores._finite, []

    def interrupted(found: Any) -> Any:
        seen.append(found)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return original(found)

    monkeypatch.setattr(scores, "_finite", interrupted)
    result = tiny.invoke(search, file, "--out", cut, *options)
    assert "the same command goes on" in tiny.error_line(result)
    assert not (cut / "best.yml").exists()
    result = tiny.invoke(search, file, "--out", cut, *options)
    assert result.exit_code == 0, result.output
    count = len(found_in(cut)["tried"]) + 1
    assert len(seen) == count + 1
    assert found_in(cut)["tried"] == found_in(whole)["tried"]
    tiny.invoke(search, file, "--out", cut, *options)
    assert len(seen) == count + 1


def test_a_function_finds_what_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searched for the nearest to one merge, it finds that setting and its lambda."""
    file, _ = families.language_models(tmp_path)
    start = yaml.safe_load(file.read_text())
    start["parameters"] = {"density": 0.4, "scope": "model", "lambda": 1.0}
    wanted, _ = tiny.merge(run_yaml.main, start, tmp_path / "wanted")
    measure(tmp_path, wanted, monkeypatch)
    out = tmp_path / "found"
    options = ("--evaluate", "measure_here:distance")
    result = tiny.invoke(search, file, "--out", out, *options)
    assert result.exit_code == 0, result.output
    best = found_in(out)["best"]
    assert (best["method"], best["density"], best["scope"]) == ("pcb", 0.4, "model")
    assert best["lambda"] == pytest.approx(1.0, rel=0.15)


@pytest.mark.slow
def test_weights_are_found_by_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the wanted merge has other weights, the budget finds nearer ones."""
    pytest.importorskip("cma")
    file, _ = families.language_models(tmp_path)
    wanted = yaml.safe_load(file.read_text())
    wanted["merge_method"] = "task_arithmetic"
    wanted["parameters"] = {"lambda": 0.5}
    for entry, weight in zip(wanted["models"], (0.7, 1.6), strict=True):
        entry["parameters"] = {"weight": weight}
    merged, _ = tiny.merge(run_yaml.main, wanted, tmp_path / "wanted")
    measure(tmp_path, merged, monkeypatch)
    options = ("--evaluate", "measure_here:distance", "--budget", 40)
    result = tiny.invoke(search, file, "--out", tmp_path / "found", *options)
    assert result.exit_code == 0, result.output
    best = found_in(tmp_path / "found")["best"]
    assert best["method"] == "task_arithmetic"
    light, heavy = best["weight_factors"]
    assert heavy > 1.3 * light
    equal = [
        t["loss"]
        for t in found_in(tmp_path / "found")["tried"]
        if not t["weight_factors"]
    ]
    assert best["loss"] < 0.3 * min(equal)
    recipe = yaml.safe_load((tmp_path / "found" / "best.yml").read_text())
    assert [m["parameters"]["weight"] for m in recipe["models"]] == [light, heavy]


def test_weights_that_make_no_difference_stop_the_strategy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """After one generation; terminal, page, JSON and log say so, and weights stay."""
    pytest.importorskip("cma")
    file, (base, *_) = families.language_models(tmp_path)
    measure(tmp_path, base.path, monkeypatch)
    out = tmp_path / "found"
    options = ("--evaluate", "measure_here:flat", "--budget", 40)
    result = tiny.invoke(search, file, "--out", out, *options)
    assert result.exit_code == 0, result.output
    said = f"The search for weights stopped after {population(2)} evaluations"
    assert said in " ".join(result.stdout.split())
    # What was not needed is no longer waited for.
    count = len(found_in(out)["tried"]) + 1
    assert f"{count} of {count}" in capfd.readouterr().err
    assert said in (out / "search.html").read_text()
    assert said in (out / "log.txt").read_text()
    assert any(note.startswith(said) for note in found_in(out)["notes"])
    weighed = [t for t in found_in(out)["tried"] if t["weight_factors"]]
    assert len(weighed) == population(2)
    assert found_in(out)["best"]["weight_factors"] == []


@pytest.mark.parametrize(
    ("function", "reason"),
    [("never", "no such benchmark"), ("nan", "gave nan for loss")],
)
def test_three_failures_in_a_row_stop_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, reason: str
) -> None:
    """The reason is named, and every failure is in the log."""
    file, (base, *_) = families.language_models(tmp_path)
    measure(tmp_path, base.path, monkeypatch)
    out = tmp_path / "found"
    options = ("--evaluate", f"measure_here:{function}", "--quiet")
    line = tiny.error_line(tiny.invoke(search, file, "--out", out, *options))
    assert "3 candidates in a row" in line
    assert reason in line
    log = (out / "candidates.jsonl").read_text().splitlines()
    assert [bool(json.loads(each)["failed"]) for each in log] == [True] * 3
    assert not (out / "best.yml").exists()
    (told,) = [
        each
        for each in (out / "log.txt").read_text().splitlines()
        if each.startswith("start: failed: ")
    ]
    assert reason in told
    assert told.endswith("; best so far none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "20"), "needs labels or real inputs"),
        (("--inputs", "tund0=in.txt"), "did you mean `tuned0`?"),
        (("--inputs", "tuned0=none.txt"), "No such file"),
        (("--inputs", "tuned0=a", "--inputs", "tuned0 = b"), "has two files"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    """Before any model is loaded, or counted."""
    if "--budget" in options:
        pytest.importorskip("cma")
    file, _ = families.language_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    families.inputs(tmp_path / "in.txt")
    result = tiny.invoke(search, file, "--out", tmp_path / "out", *options)
    assert message in tiny.error_line(result)
    assert "models evaluated" not in capfd.readouterr().err


def test_a_model_may_have_an_equals_sign_in_its_name() -> None:
    """The longest name that the recipe has is meant."""
    pairs = ["lr=3e-5=a=b.txt", "lr = in.txt"]
    assert command._files(pairs, ["lr", "lr=3e-5"]) == {
        "lr=3e-5": Path("a=b.txt"),
        "lr": Path("in.txt"),
    }


def test_one_model_leaves_nothing_to_choose(tmp_path: Path) -> None:
    """One expert is its own best merge."""
    file, _ = families.language_models(tmp_path, 1)
    result = tiny.invoke(search, file, "--out", tmp_path / "out")
    assert "merges one model" in tiny.error_line(result)


def test_only_one_objective(tmp_path: Path) -> None:
    """Two ways to choose are a wrong use."""
    file, _ = families.language_models(tmp_path)
    ways = ("--tasks", "a", "--evaluate", "b:c")
    result = tiny.invoke(search, file, "--out", tmp_path / "out", *ways)
    assert result.exit_code == 2
    assert "choose by one of" in result.output


def test_beside_stays_between_neighbours() -> None:
    """Finer lambdas lie beside the best, on both sides."""
    low, high = run.beside([0.7, 1.0, 1.4], 1.0)
    assert 0.7 < low < 1 < high < 1.4
    assert torch.isfinite(torch.tensor([low, high])).all()
