"""Candidates a minute: what each command is given, and how its evaluations count."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from experiments import benchmark_evolve

RECIPE = {
    "merge_method": "pcb",
    "base_model": "base",
    "models": [{"model": "first"}, {"model": "second"}],
}


def test_both_commands_get_the_same_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many texts score each candidate; what is scored twice counts twice."""
    recipe, texts = tmp_path / "recipe.yml", tmp_path / "texts.txt"
    recipe.write_text(yaml.safe_dump(RECIPE))
    texts.write_text("".join(f"text {i}\n" for i in range(9)))
    runs: list[dict[str, Any]] = []

    def timed(command: list[str], folder: Path) -> tuple[float, str]:
        search = command[1] == "search"
        option = "--include-path" if search else "--task-search-path"
        tasks = Path(command[command.index(option) + 1])
        task = yaml.safe_load((tasks / "texts.yaml").read_text())
        data = Path(task["dataset_kwargs"]["data_files"]["test"])
        count = len(data.read_text().splitlines())
        if search:
            out = Path(command[command.index("--out") + 1])
            out.mkdir()
            (out / "candidates.jsonl").write_text("{}\n" * 40)
            runs.append({"texts a candidate": count // 2})
            return 120.0, ""
        assert command[:3] == [sys.executable, "-m", "experiments.evolve"]
        genome = yaml.safe_load(Path(command[3]).read_text())
        assert genome["genome"]["models"] == ["first", "second"]
        assert [task["name"] for task in genome["tasks"]] == ["texts"]
        runs.append({"texts a candidate": min(count, genome["limit"])})
        return 200.0, "Received 9 genotypes\n…\nReceived 11 genotypes\n"

    monkeypatch.setattr(benchmark_evolve, "_timed", timed)
    monkeypatch.setattr(benchmark_evolve, "script", lambda name: name)
    report = tmp_path / "out" / "report.md"
    arguments = [str(recipe), "--texts", str(texts), "--count", "3"]
    done = CliRunner().invoke(
        benchmark_evolve.main, [*arguments, "--markdown", str(report)]
    )
    assert done.exit_code == 0, done.output
    assert runs == [{"texts a candidate": 3}] * 2
    lines = report.read_text().splitlines()
    assert lines[2:4] == [
        "| search | 40 | 20.0 | 3.33 |",
        "| evolve | 20 | 6.0 | 1.00 |",
    ]
    found = json.loads(report.with_suffix(".json").read_text())
    assert found["runs"]["evolve"] == [{"evaluations": 20, "seconds": 200.0}]
    assert not list(tmp_path.glob("tmp*"))
