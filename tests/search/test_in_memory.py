"""Evaluations of a model in memory: the scores of the same model in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mergekit.scripts import run_yaml

from mergekit_pcb.compare.evaluation import ALL, VALIDATION
from mergekit_pcb.compare.function import Function
from mergekit_pcb.compare.loading import load_model
from mergekit_pcb.search.command import search
from mergekit_pcb.search.objective import ByFolder, ByModel
from tests import tiny
from tests.compare.test_command import write_tasks
from tests.search import families

FUNCTIONS = """
import torch

IDS = torch.arange(20)[None]

def perplexity(model, split):
    assert not model.training
    with torch.inference_mode():
        loss = model(IDS + (split == "test"), labels=IDS).loss
    return {"loss": loss.item()}

def converts(model):
    return {"loss": model.bfloat16()(IDS, labels=IDS).loss.item()}

def counts(model):
    return {"loss": model(IDS, labels=IDS).loss.item()}
"""


@pytest.fixture
def functions(module_of: Callable[[str], str]) -> str:
    return module_of(FUNCTIONS)


def ignore(percent: float) -> None:
    pass


def test_a_function_may_take_a_model(tmp_path: Path, functions: str) -> None:
    """In `compare` it is loaded, in `search` it is in memory; the scores are equal."""
    _, models = families.language_models(tmp_path)
    function = Function(f"{functions}:perplexity", device="cpu")
    assert (function.takes_model, function.splits) == (True, True)
    model = load_model(models[1].path, "cpu")
    for part in (VALIDATION, ALL):
        loaded = function(models[1].path, part, ignore)
        assert ByModel(function)(model, part, ignore) == loaded
    assert function.identity(VALIDATION) != function.identity(ALL)


def test_search_gives_its_model_to_a_function(tmp_path: Path, functions: str) -> None:
    """Every candidate has weights of its own, and the best ones those of its recipe."""
    file, _ = families.language_models(tmp_path)
    out = tmp_path / "out"
    way = ("--evaluate", f"{functions}:counts")
    result = tiny.invoke(search, file, "--out", out, *way, "--quiet")
    assert result.exit_code == 0, result.output
    document = json.loads((out / "search.json").read_text())
    losses = [each["loss"] for each in document["tried"]]
    assert len(set(losses)) > 25
    recipe = yaml.safe_load((out / "best.yml").read_text())
    merged, _ = tiny.merge(run_yaml.main, recipe, tmp_path / "merged")
    found = Function(f"{functions}:counts", device="cpu")(merged, ALL, ignore)
    assert found["loss"].value == min(losses)


def test_a_function_must_leave_the_dtype(tmp_path: Path, functions: str) -> None:
    """A model of another dtype has other weights than the candidate: it is said."""
    file, _ = families.language_models(tmp_path)
    way = ("--evaluate", f"{functions}:converts")
    result = tiny.invoke(search, file, "--out", tmp_path / "out", *way, "--quiet")
    assert "let it work on copy.deepcopy(model)" in tiny.error_line(result)


@pytest.mark.slow
def test_the_harness_scores_in_memory_as_from_a_folder(tmp_path: Path) -> None:
    """The same numbers of the same items, and no folder for a candidate."""
    pytest.importorskip("lm_eval", reason="needs the extra [eval]")
    from mergekit_pcb.compare.harness import Harness

    _, models = families.language_models(tmp_path)
    write_tasks(tmp_path / "tasks")
    harness = Harness(
        ["reading", "guessing"],
        include_path=tmp_path / "tasks",
        tokenizer=lambda: models[0].path,
        options={"batch_size": "2", "device": "cpu"},
    )
    model = load_model(models[1].path, "cpu")
    for part in (VALIDATION, ALL):
        folder = ByFolder(harness, tmp_path, lambda: models[0].path)
        expected = folder(model, part, ignore)
        assert ByModel(harness)(model, part, ignore) == expected
        shutil.rmtree(tmp_path / "candidate", ignore_errors=True)
