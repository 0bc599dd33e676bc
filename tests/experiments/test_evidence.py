"""One comparison of a toy suite, from fine-tunes to rows, through mergekit-pytorch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments import ablation, control, evidence, fine_tune, sensitivity
from experiments.cases import measure_all
from experiments.settings import METHODS
from experiments.suites import registry
from experiments.suites.suite import Place, Training
from experiments.tables import COMPARISONS
from mergekit_pcb.compare.evaluation import VALIDATION
from tests.tiny import invoke

SHAPES = {"a.weight": (12, 10), "b.weight": (30,), "c.weight": (4, 5)}
TARGETS = {"red": 1, "green": 2, "blue": 3}


class Toy:
    """A task is to be near its target; fine-tuning goes most of the way."""

    name = "toy"
    tasks = tuple(TARGETS)
    held_out = ()
    metric = "accuracy"
    higher_is_better = True
    front_end = "pytorch"
    training = Training(steps=1, batch=1, rate=0.9)

    def __init__(self, place: Place) -> None:
        self.place = place

    def prepare(self) -> Path:
        folder = self.place.models / "toy" / "base"
        if not folder.exists():
            folder.mkdir(parents=True)
            self._save({name: torch.zeros(s) for name, s in SHAPES.items()}, folder)
        return folder

    def reference(self, folder: Path) -> str:
        return str(folder)

    def state(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / "model.safetensors")

    def fine_tune(self, task: str, seed: int, training: Training, folder: Path) -> None:
        generator = torch.Generator().manual_seed(seed)
        noise = {
            name: 0.1 * torch.randn(shape, generator=generator)
            for name, shape in SHAPES.items()
        }
        target = self._target(task)
        self._save({k: training.rate * t + noise[k] for k, t in target.items()}, folder)

    def scores(self, state: dict, task: str, part: str) -> list[float]:
        wanted = self._target(task)
        errors = torch.cat([(state[k] - wanted[k]).abs().flatten() for k in SHAPES])
        half = errors[::2] if part == VALIDATION else errors[1::2]
        return (100 - half).tolist()

    @staticmethod
    def _target(task: str) -> dict[str, torch.Tensor]:
        # One part is common to all, so that a merge is better than the base.
        common, own = (
            torch.Generator().manual_seed(seed) for seed in (1000, 1000 + TARGETS[task])
        )
        return {
            name: sum(torch.randn(shape, generator=g).pow(3) for g in (common, own))
            for name, shape in SHAPES.items()
        }

    @staticmethod
    def _save(state: dict[str, torch.Tensor], folder: Path) -> None:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"model_type": "toy", "architectures": ["Toy"]}
        (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite under its name; no other test sees it."""
    monkeypatch.setattr(registry, "SUITES", {"toy": Toy})
    evidence.opened.cache_clear()


def case(place: Place, *, tuned: bool) -> dict:
    (first, *_) = COMPARISONS["cross-task"](Toy(place), [0])
    return {"suite": "toy", "table": "cross-task", "tuned": tuned, **first}


def test_untuned_comparison(tmp_path: Path) -> None:
    """Every method has a row with a score on each task, and a paired difference."""
    place = Place(tmp_path)
    found = evidence.compared(case(place, tuned=False), place)
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"base", "red", "green", *METHODS}
    assert all(not row["failed"] for row in rows.values()), found
    assert all(row["values"].keys() == {"red", "green"} for row in rows.values())
    assert rows["red"]["values"]["red"] == pytest.approx(99.8, abs=0.15)
    assert rows["pcb"]["difference"] == [0.0, 0.0]
    mean = {name: sum(row["values"].values()) / 2 for name, row in rows.items()}
    gap, error = rows["linear"]["difference"]
    assert gap == pytest.approx(mean["linear"] - mean["pcb"], abs=1e-4)
    assert 0 < error < 1
    assert mean["pcb"] > mean["base"]
    # Fine-tunes are kept, merged models are not.
    assert not list(tmp_path.rglob("merged/*/model.safetensors"))


@pytest.mark.slow
def test_tuned_comparison_says_what_was_tried(tmp_path: Path) -> None:
    """Six tries for all that have something to try; the chosen one is named."""
    place = Place(tmp_path)
    found = evidence.compared(case(place, tuned=True), place)
    tried = {row["name"]: row["tried"] for row in found["rows"]}
    assert {len(each) for each in tried.values()} == {0, 2, 6}
    (pcb,) = (row for row in found["rows"] if row["name"] == "pcb")
    best = max(pcb["tried"], key=lambda entry: entry[1])
    assert pcb["settings"] == best[0]


def test_tables_in_memory(tmp_path: Path) -> None:
    """Ablation, sensitivity and control measure every case that they list."""
    place, suite = Place(tmp_path), Toy(Place(tmp_path))
    for module in (ablation, sensitivity, control):
        cases = module.cases(suite, [0])
        file = tmp_path / "results" / f"{module.__name__}.json"
        found = measure_all(cases, module.measure, place, 1, file)
        assert len(found) == len(cases)
    for _, values in found:
        assert values["relative distance"] < 1e-5
        assert values["items scored alike"] > 0.9


def test_fine_tunes_are_scored_before_and_after(tmp_path: Path) -> None:
    """On the items of their own task."""
    found = fine_tune.measure(
        {"suite": "toy", "seed": 0, "task": "blue"}, Place(tmp_path)
    )
    assert found["base"] < found["tuned"] < 100


def test_out_of_domain_tunes_on_what_was_trained() -> None:
    """Settings are chosen on tasks of the models, never on those that are shown."""
    comparisons = list(COMPARISONS["out-of-domain"](Toy(Place(Path("/x"))), [0, 1]))
    assert len(comparisons) == 4
    for comparison in comparisons:
        trained = {model["task"] for model in comparison["models"]}
        assert set(comparison["choosing"]) == trained
        assert trained.isdisjoint(comparison["shown"])


def test_cross_training_merges_runs_of_one_task() -> None:
    """Of several seeds, or of several learning rates."""
    comparisons = list(COMPARISONS["cross-training"](Toy(Place(Path("/x"))), [0, 1]))
    for comparison in comparisons:
        (task,) = {model["task"] for model in comparison["models"]}
        assert comparison["shown"] == [task]
    rates = [model["training"]["rate"] for model in comparisons[-1]["models"]]
    assert rates == [0.45, 0.9, 1.8]


def test_command_refuses_unknown_suites(tmp_path: Path) -> None:
    """One line, with those there are."""
    result = invoke(evidence.main, "sound", "--table", "cross-task", "--work", tmp_path)
    assert result.exit_code == 2
    assert "'sound' is not one of 'text', 'vision1', 'vision2'" in result.stderr
