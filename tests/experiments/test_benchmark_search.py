"""The benchmark of candidates: its table, and a run on tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments import benchmark_search

ROOT = Path(__file__).parents[2]


def run(seconds: float, cpu_seconds: float) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def found(cpu_seconds: float) -> dict[str, Any]:
    return {
        "size": {"models": 3},
        "parameters": 540_000_000,
        "imports": {**run(5, 5), "peak_mb": 400},
        "merges": {"pcb": [{**run(10, s), "peak_mb": 900} for s in (14, 15, 30)]},
        "base": [run(0.2, 0.15)],
        "candidates": [
            {
                "setting": "pcb, density 0.2",
                "method": "pcb",
                "changes": "lambda",
                "contributions": run(8, 12),
                "bytes": 1_600_000_000,
                "first": run(1, 1),
                "candidates": [run(0.2, s) for s in (0.1, cpu_seconds, 9)],
            }
        ],
    }


@pytest.mark.parametrize(("cpu_seconds", "verdict"), [(0.3, "yes"), (0.31, "NO")])
def test_a_candidate_is_a_share_of_a_merge(cpu_seconds: float, verdict: str) -> None:
    """Medians of the same method, with imports and without."""
    lines = benchmark_search.table(found(cpu_seconds))
    share = 100 * cpu_seconds / 15
    assert lines[4].startswith(
        "| pcb, density 0.2 | 8.0 s | 12.0 s | 1600 MB | lambda | 0.200 s | "
        f"{cpu_seconds:.3f} s | {share:.1f} % | 2.0 % | {1.5 * share:.1f} % |"
    )
    assert f"lambda {verdict} (" in lines[-1]
    assert "0.150 s on all cores, 1.0 % of a merge" in lines[-3]


@pytest.mark.slow
def test_benchmark_from_end_to_end(tmp_path: Path) -> None:
    """Every setting has candidates with weights and without; nothing stays."""
    work, report = tmp_path / "work", tmp_path / "out" / "table.md"
    work.mkdir()
    options = ["--layers=2", "--hidden=64", "--vocab=100", "--models=2", "--repeat=1"]
    options += [f"--work={work}", f"--markdown={report}"]
    command = [sys.executable, "-m", "experiments.benchmark_search", *options]
    subprocess.run(command, cwd=ROOT, check=True)
    assert not list(work.iterdir())
    record = json.loads(report.with_suffix(".json").read_text())
    made = {(each["setting"], each["changes"]) for each in record["candidates"]}
    assert len(made) == 10
    assert all(len(each["candidates"]) == 3 for each in record["candidates"])
    assert "| pcb, density 0.1 |" in report.read_text()
