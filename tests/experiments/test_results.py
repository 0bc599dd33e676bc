"""From measured cases to tables: none is measured twice, no number is made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import results, targets
from experiments.cases import load, measure_all, save
from experiments.evidence import difference
from experiments.suites.suite import Place
from experiments.summary import best_peer, groups, summarise
from mergekit_pcb.compare.evaluation import Score
from mergekit_pcb.compare.scoreboard import MERGE, Row


def test_cases_are_measured_once(tmp_path: Path) -> None:
    """After a failure, what was measured before is there; the rest is measured."""
    file, place, seen = tmp_path / "a.json", Place(tmp_path), []

    def measure(case: dict, place: Place) -> dict:
        seen.append(case["n"])
        if case["n"] == 2 and seen.count(2) == 1:
            raise RuntimeError("no power")
        return {"square": case["n"] ** 2}

    cases = [{"n": n} for n in range(4)]
    with pytest.raises(RuntimeError):
        measure_all(cases, measure, place, 1, file)
    assert [found["square"] for _, found in load(file)] == [0, 1]
    found = measure_all(cases[::-1], measure, place, 1, file)
    assert [case["n"] for case, _ in found] == [3, 2, 1, 0]
    assert seen == [0, 1, 2, 3, 2]
    assert json.loads(file.read_text())[0] == {"case": {"n": 0}, "found": {"square": 0}}


def row(kind: str, name: str, *values: float, failed: str = "") -> dict:
    tasks = ("a", "b")
    return {
        "kind": kind,
        "name": name,
        "settings": f"density {len(name)}",
        "failed": failed,
        "values": {} if failed else dict(zip(tasks, values, strict=True)),
    }


def comparison(seed: int, tuned: bool = False, group: str = "2 models") -> tuple:
    case = {
        "group": group,
        "replicate": f"seed {seed}",
        "tuned": tuned,
        "shown": ["a", "b"],
        "suite": "text",
    }
    rows = [
        row("base", "base", 50, 60),
        row("expert", "a", 90, 50),
        row("expert", "b", 40, 95),
        row("merge", "ties", 70 + seed, 72),
        row("merge", "pcb", 74 + 3 * seed, 74),
        row("merge", "della", failed="too random" if seed == 1 else "")
        if seed == 1
        else row("merge", "della", 1, 2),
    ]
    return case, {"rows": rows}


def test_summary_is_over_seeds() -> None:
    """Means, standard errors, and paired differences, worked out by hand."""
    group = groups(
        [comparison(0), comparison(1), comparison(2, tuned=True)], tuned=False
    )
    lines = {
        line.name: line for line in summarise(group["2 models"], higher_is_better=True)
    }
    assert list(lines) == ["base", "own experts", "best single expert", "pcb", "ties"]
    assert lines["own experts"].mean == 92.5
    assert lines["best single expert"].mean == 70
    assert lines["pcb"].values == [74, 75.5]
    assert lines["pcb"].mean == 74.75
    assert lines["pcb"].error == pytest.approx(0.75)
    assert lines["ties"].gaps == [-3, -4]
    assert lines["ties"].gap_error == pytest.approx(0.5)
    assert best_peer(list(lines.values())) is lines["ties"]


def test_lower_may_be_better() -> None:
    """Then the merge with the smallest mean comes first."""
    lines = summarise([comparison(0)], higher_is_better=False)
    assert next(line.name for line in lines if line.kind == MERGE) == "della"


def test_differences_are_paired() -> None:
    """Two rows that answer the same items alike differ by nothing, for sure."""

    def merged(name: str, items: list[float]) -> Row:
        mean = sum(items) / len(items)
        return Row(MERGE, name, {"a": Score(mean, "accuracy", True, 1.0, items)})

    ours = merged("pcb", [100.0, 0.0, 100.0, 0.0])
    assert difference(merged("ties", [100.0, 0.0, 100.0, 0.0]), ours) == [0.0, 0.0]
    assert difference(merged("ties", [100.0, 0.0, 0.0, 0.0]), ours) == [-25.0, 25.0]
    assert difference(Row(MERGE, "della", failed="no"), ours) is None


def test_everything_is_rendered(tmp_path: Path) -> None:
    """Every kind of file gives a section; what failed is said; others are left out."""
    (tmp_path / "kernel.json").write_text("{}")
    (tmp_path / "cpu").mkdir()
    save(
        [comparison(0), comparison(1), comparison(1, tuned=True)],
        tmp_path / "text-cross-task.json",
    )
    sizes = [comparison(0), comparison(0, group="3 models")]
    save(sizes, tmp_path / "cpu" / "vision1-cross-task.json")
    ablated = [
        ({"group": "3 models", "seed": s, "variant": v}, {"values": {"a": 70 + s + k}})
        for s in (0, 1)
        for k, v in enumerate(("pcb", "without clamp"))
    ]
    save(ablated, tmp_path / "language-ablation.json")
    curve = {"lambda": [0.5, 1.0], "scores": [70.0, 75.0]}
    auto = {"auto": {"lambda": 0.9, "score": 74.0}}
    case = {"suite": "text", "method": "pcb", "density": 0.1}
    peer = {"suite": "text", "method": "ties", "density": 0.2}
    save([(case, curve | auto), (peer, curve)], tmp_path / "text-sensitivity.json")
    experts = [
        ({"task": "a", "seed": s}, {"base": 50.0, "tuned": 80.0 + s}) for s in (0, 1)
    ]
    save(experts, tmp_path / "vision1-experts.json")
    studied = {"kind": "tensor own", "density": 0.2, "tasks": ["a", "b", "c"]}
    lost = {"p": [0.5, 0.7, 0.9], "scores": [70.0, 72.0, 71.0]}
    for suite in targets.SUITES:
        save([(studied, lost)], tmp_path / f"auto-lambda-{suite}.json")
    text = "\n".join(results.render(tmp_path))
    assert "kernel" not in text
    assert "## text: cross-task" in text
    assert "### 2 models, nobody tuned (2 comparisons)" in text
    assert "### 2 models, everybody tuned on validation items (1 comparisons)" in text
    assert "| pcb | **74.75** | 0.75 | +0.00 | 0.00 | density 3 |" in text
    assert "| della | failed | | | | too random |" in text
    assert "## vision1: cross-task, fine-tunes made on a CPU" in text
    assert "| | 2 models | 3 models |" in text
    assert "| pcb minus the best other method | +3.00 (ties) | +3.00 (ties) |" in text
    assert "pcb is 3.50 ± 0.50 ahead of the best peer here, ties." in text
    assert "| without clamp | 71.5000 | +1.0000 | 0.0000 |" in text
    assert "| pcb | 0.1 | 0.90, 74.000 | 1, 75.000 | 75.000 |" in text
    assert "| ties | 0.2 |  | 1, 75.000 | 75.000 |" in text
    assert "| a | 2 | 50.000 | 80.500 | 0.500 |" in text
    pictures = dict(results.drawn(tmp_path))
    names = {f"auto-lambda-{suite}" for suite in targets.SUITES}
    names |= {"vision1-cross-task", "text-sensitivity"}
    assert set(pictures) == names
    assert "| 0.6 | 1.00 (3: 1.0) |" in text
    assert all(data.startswith(b"\x89PNG") for data in pictures.values())
