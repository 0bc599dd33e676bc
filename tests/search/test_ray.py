"""Jobs on Ray: a real one of two workers, of which one is killed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mergekit_pcb.compare.cluster import Ray
from mergekit_pcb.compare.command import compare
from mergekit_pcb.compare.function import Function
from mergekit_pcb.compare.recipe import compare_recipe
from mergekit_pcb.search.command import search
from tests import tiny
from tests.search import families

SCORES = """
import os, signal, sys
from pathlib import Path
from safetensors.torch import load_file

HERE = Path(__file__).parent

def kill_one(model_dir, wanted, killed):
    on_ray = "ray" in sys.modules and os.environ.get("RAY_JOB_ID")
    if on_ray and wanted in str(model_dir) and not (HERE / killed).exists():
        (HERE / killed).touch()
        os.kill(os.getpid(), signal.SIGKILL)

def score(model_dir, split="test"):
    kill_one(model_dir, "merged-", "killed by compare")
    tensors = load_file(f"{model_dir}/model.safetensors")
    half = slice(0, None, 2) if split == "validation" else slice(1, None, 2)
    return {"accuracy": [float(x) for x in tensors["lm_head.weight"][half, 0]]}

def distance(model_dir, split="test"):
    kill_one(model_dir, "candidate", "killed by search")
    found = load_file(f"{model_dir}/model.safetensors")["model.norm.weight"]
    wanted = load_file(HERE / "tuned1/model.safetensors")["model.norm.weight"]
    half = slice(0, None, 2) if split == "validation" else slice(1, None, 2)
    return {"loss": [float(x) for x in (found - wanted)[half].square()]}
"""


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A Ray that the commands find and leave as it is."""
    ray = pytest.importorskip("ray", reason="needs the extra [ray]")
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    ray.init(num_cpus=2, logging_level="error", **options)
    yield
    ray.shutdown()


def without_costs(document: dict[str, Any]) -> Any:
    costs = {"seconds", "peak_bytes"}
    return [
        {key: value for key, value in row.items() if key not in costs}
        for row in document["rows"]
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_the_table_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a worker dies; what the folder has, Ray does not do again."""
    (tmp_path / "ray_scores.py").write_text(SCORES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    base, tuned = tiny.save_family(tmp_path, 2)
    recipe = tiny.write_recipe(tiny.recipe_of(base, tuned), tmp_path / "r.yml")
    found = []
    for out, how in (("ray", {"on": Ray()}), ("here", {"in_this_process": True})):
        compare_recipe(
            str(recipe),
            tmp_path / out,
            lambda _: Function("ray_scores:score"),
            methods=["pcb", "slerp"],
            swept={"pcb": {"lambda": [0.5, 1.5]}},
            merge_options={"copy_tokenizer": False, "quiet": True},
            keep="none",
            quiet=True,
            **how,
        )
        text = (tmp_path / out / "comparison.json").read_text()
        found.append(json.loads(text.replace(str(tmp_path / out), "out")))
    assert (tmp_path / "killed by compare").exists(), "a worker was lost"
    on_ray, here = map(without_costs, found)
    assert on_ray == here
    assert found[0]["notes"] == found[1]["notes"]
    assert found[0]["answer"] == found[1]["answer"]
    costs = [row["seconds"] for row in found[0]["rows"] if row["name"] == "pcb"]
    assert costs[0] > 0
    assert not list((tmp_path / "ray").glob(".jobs-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_what_is_found_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings, weights, scores and log, also where a worker dies."""
    pytest.importorskip("cma")
    (tmp_path / "search_scores.py").write_text(SCORES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe, _ = families.language_models(tmp_path)
    options = ("--evaluate", "search_scores:distance", "--budget", 12, "--quiet")
    found, logged = [], []
    for out, more in (("ray", ["--ray"]), ("here", [])):
        run = tiny.invoke(search, recipe, "--out", tmp_path / out, *options, *more)
        assert run.exit_code == 0, run.output
        found.append(json.loads((tmp_path / out / "search.json").read_text()))
        lines = (tmp_path / out / "candidates.jsonl").read_text().splitlines()
        logged.append(sorted(_without_seconds(json.loads(line)) for line in lines))
    assert (tmp_path / "killed by search").exists(), "a worker was lost"
    assert found[0] == found[1]
    assert logged[0] == logged[1]
    assert any(each["weight_factors"] for each in found[0]["tried"])
    assert not list((tmp_path / "ray").glob(".search-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_gpus_that_no_machine_has_are_one_line(tmp_path: Path) -> None:
    """A job that asks for them would wait forever."""
    base, tuned = tiny.save_family(tmp_path, 2)
    recipe = tiny.write_recipe(tiny.recipe_of(base, tuned), tmp_path / "r.yml")
    options = ("--out", tmp_path / "out", "--ray", "--gpus-per-job", 99)
    line = tiny.error_line(tiny.invoke(compare, recipe, *options))
    assert "--gpus-per-job 99: no machine" in line


def _without_seconds(line: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in line.items() if key != "seconds"})


def test_without_ray_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything begins; and GPUs for jobs go with Ray only."""
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = tiny.write_recipe(tiny.recipe_of("org/base", ["org/a"]), tmp_path / "r")
    out = tmp_path / "out"
    for command in (compare, search):
        result = tiny.invoke(command, recipe, "--out", out, "--ray")
        assert "pip install 'mergekit-pcb[ray]'" in tiny.error_line(result)
        assert not out.exists()
        result = tiny.invoke(command, recipe, "--out", out, "--gpus-per-job", 1)
        assert result.exit_code == 2
        assert "--gpus-per-job goes with --ray" in result.output
