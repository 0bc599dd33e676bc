"""The benchmark of whole merges: its models, its runs, its tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mergekit.scripts import run_yaml
from safetensors.torch import load_file

from experiments import benchmark_merge, computed_times, synthetic_llama
from experiments.merge_runs import METHODS, Usage, recipe_for
from tests.tiny import QUIET, assert_same, invoke

ROOT = Path(__file__).parents[2]
SIZE = ("--layers=2", "--hidden=64", "--vocab=100", "--models=2")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models of 100,000 parameters."""
    result = invoke(synthetic_llama.main, tmp_path, *SIZE)
    assert result.exception is None, result.output
    return tmp_path


def weights(folder: Path) -> dict:
    files = folder.glob("*.safetensors")
    return {name: w for file in files for name, w in load_file(file).items()}


def test_models_are_what_they_are_said_to_be(models: Path) -> None:
    """The base and each fine-tune have the size asked for and differ everywhere."""
    base, *tuned = (weights(models / name) for name in ("base", "tuned0", "tuned1"))
    parameters = sum(tensor.numel() for tensor in base.values())
    assert parameters == synthetic_llama.count(layers=2, hidden=64, vocab=100)
    assert benchmark_merge.count(models / "base") == pytest.approx(parameters, rel=0.1)
    for model in tuned:
        assert model.keys() == base.keys()
        changed = [
            (model[name] != tensor).double().mean() for name, tensor in base.items()
        ]
        assert min(changed) > 0.3


def test_models_are_the_same_again(models: Path, tmp_path: Path) -> None:
    """Two runs of the benchmark merge the same numbers."""
    again = tmp_path / "again"
    assert invoke(synthetic_llama.main, again, *SIZE).exception is None
    for name in ("base", "tuned1"):
        assert_same(weights(again / name), weights(models / name))


@pytest.mark.parametrize("method", METHODS)
def test_mergekit_takes_the_recipes(method: str, models: Path) -> None:
    """Every method in the table merges the models as the benchmark asks it to."""
    recipe = models / "recipe.yml"
    recipe.write_text(yaml.safe_dump(recipe_for(models, method)))
    result = invoke(run_yaml.main, recipe, models / "merged", *QUIET)
    assert result.exception is None, result.output
    assert weights(models / "merged").keys() == weights(models / "base").keys()


def found(runs: dict[str, list[Usage]], **more: object) -> dict:
    imports = {"imports": [Usage(4.0, 5.0, 400.0)]}
    return {"runs": imports | runs, "size": {"models": 3}, **more}


def test_table_compares_medians() -> None:
    """A single disturbed run moves neither a time nor a ratio."""
    runs = {
        "linear": [Usage(10, 11, 500), Usage(99, 13, 500), Usage(12, 12, 500)],
        "ties": [Usage(40, 50, 700), Usage(36, 9, 900), Usage(20, 40, 100)],
        "pcb": [Usage(18, 30, 600), Usage(18, 30, 640), Usage(90, 33, 610)],
    }
    text = benchmark_merge.table(found(runs, parameters={8: 540_000_000}))
    assert "540 million" in text[0]
    assert [line.replace(" ", "") for line in text[-3:]] == [
        "|`linear`|12.0s|10.0-99.0s|1.00|0.33|12.0s|1.00|0.30|500MB|",
        "|`ties`|36.0s|20.0-40.0s|3.00|1.00|40.0s|3.33|1.00|700MB|",
        "|`pcb`|18.0s|18.0-90.0s|1.50|0.50|30.0s|2.50|0.75|610MB|",
    ]
    assert len({line.count("|") for line in text[2:]}) == 1


def test_a_table_for_each_number_of_models() -> None:
    """Each compares methods that merged the same number."""
    runs = {
        f"{method}, {number} models": [Usage(seconds * number, 1, 1)]
        for number in (2, 12)
        for method, seconds in (("linear", 10), ("pcb", 15))
    }
    text = benchmark_merge.tables(found(runs, parameters={8: 10**6}), [2, 12])
    assert [line for line in text if line.startswith("Merges")] == [text[0], text[7]]
    assert "of 12 fine-tunes" in text[7]
    assert "| `pcb` | 180.0 s | 180.0 - 180.0 s | 1.50 |" in text[-1]


def test_what_larger_models_take_is_computed() -> None:
    """Imports once, the work for each parameter, and each pass over the disk."""
    runs = {
        "imports": Usage(4, 5, 400),
        "linear": Usage(10, 11, 500),
        "pcb-model": Usage(16, 11, 500),
    }
    speed = computed_times.DiskSpeed(read=1e9, written=5e8)
    *_, linear, model = computed_times.lines(runs, 1e9, 3, speed)
    # 4 + 6 * 7 + 3 * 14 + 28 seconds; 4 + 12 * 7 + 4 * 4 * 14 + 28.
    assert linear.startswith(f"| `linear` | {116 / 60:.1f} min | ")
    assert model.startswith(f"| `pcb-model` | {340 / 60:.1f} min | ")
    *_, tiny = computed_times.lines(runs | {"linear": runs["imports"]}, 1e6, 3, speed)
    assert "too small" in tiny


def test_speed_of_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured by a file that is gone afterwards."""
    monkeypatch.setattr(computed_times, "_PROBE", 1 << 24)
    speed = computed_times.disk_speed(tmp_path)
    assert min(speed) > 1e5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("peak", "verdict"), [(625, "yes."), (630, "NO.")])
def test_table_of_depths_has_a_verdict(peak: float, verdict: str) -> None:
    """One depth whose ratio is too large is enough for a no."""
    runs = {}
    for depth, model in ((4, 500.0), (16, peak)):
        runs[f"pcb, {depth} layers"] = [Usage(9, 9, 500)]
        runs[f"pcb-model, {depth} layers"] = [Usage(9, 9, model)]
    text = benchmark_merge.depth_table(
        found(runs, parameters={4: 10**7, 16: 4 * 10**7}), [4, 16]
    )
    assert text[-1] == f"At most 1.25 times as much: {verdict}"
    assert text[4] == "| 4 | 10 M | 500 MB | 500 MB | 1.00 |"


def test_unknown_methods_are_named() -> None:
    """A method that the benchmark does not know is bad use."""
    result = invoke(benchmark_merge.main, "--methods", "linear,slurp")
    assert result.exit_code == 2
    assert "slurp" in result.stderr


@pytest.mark.slow
def test_benchmark_from_end_to_end(tmp_path: Path) -> None:
    """The command makes models, merges them in processes, records, and cleans up."""
    work, report = tmp_path / "work", tmp_path / "out" / "table.md"
    work.mkdir()
    options = ["--methods=linear,pcb-model", "--repeat=1", *SIZE]
    options += [f"--work={work}", f"--markdown={report}"]
    command = [sys.executable, "-m", "experiments.benchmark_merge", *options]
    subprocess.run(command, cwd=ROOT, check=True)
    assert not list(work.iterdir())
    record = json.loads(report.with_suffix(".json").read_text())
    for method in ("linear", "pcb-model"):
        (run,) = record["runs"][method]
        assert 0 < run["seconds"] < 600
        assert 100 < run["peak_mb"] < 4000
        assert f"| `{method}` |" in report.read_text()
