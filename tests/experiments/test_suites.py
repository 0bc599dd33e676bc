"""What all suites have in common: splits, batches, fine-tunes that are made once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments.suites import packages
from experiments.suites.evaluation import SuiteEvaluation
from experiments.suites.suite import (
    Place,
    Training,
    batches,
    fine_tuned,
    fine_tuning,
    kept,
    load_state,
    percent_right,
    split,
)
from mergekit_pcb.compare.evaluation import ALL, TEST, VALIDATION

TRAINING = Training(steps=4, batch=2, rate=0.1, precision="float32")


class Toy:
    """Weights are one number, which fine-tuning sets to the seed and more."""

    name = "toy"
    tasks = ("odd", "even")
    held_out = ()
    metric = "accuracy"
    higher_is_better = True
    front_end = "pytorch"
    training = TRAINING

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.scored: list[str] = []
        self.fails = False

    def fine_tune(self, task: str, seed: int, training: Training, folder: Path) -> None:
        self.trained.append(task)
        save_file({"w": torch.tensor([float(seed)])}, folder / "model.safetensors")
        if self.fails:
            raise RuntimeError("no power")

    def state(self, folder: Path) -> dict[str, torch.Tensor]:
        return load_state(folder)

    def scores(self, state: dict, task: str, part: str) -> list[float]:
        self.scored.append(f"{task} {part}")
        return [state["w"].item(), 1.0 if part == VALIDATION else 0.0]


def test_split_deals_every_item_to_one_part() -> None:
    """No item is in two parts, none is lost, and another seed deals otherwise."""
    parts = split(100, validation=20, test=30)
    assert {part: len(of) for part, of in parts.items()} == {
        VALIDATION: 20,
        TEST: 30,
        "train": 50,
    }
    dealt = [i for part in parts.values() for i in part]
    assert sorted(dealt) == list(range(100))
    assert split(100, validation=20, test=30) == parts
    assert split(100, validation=20, test=30, seed=1) != parts


def test_split_needs_items_for_training() -> None:
    """Too few items are one clear error."""
    with pytest.raises(ValueError, match="too few items: 50, of which 20"):
        split(50, validation=20, test=30)


def test_batches_see_every_item_before_one_again() -> None:
    """The rate rises, then falls; the order depends on the seed alone."""
    plan = list(batches(5, Training(steps=10, batch=2, rate=1.0), seed=3))
    seen = [i for _, chosen in plan for i in chosen.tolist()]
    assert len(seen) == 20
    assert all(sorted(seen[k : k + 5]) == list(range(5)) for k in range(0, 20, 5))
    rates = [rate for rate, _ in plan]
    assert max(rates) <= 1
    assert rates[-1] == pytest.approx(0.1)
    again = list(batches(5, Training(steps=10, batch=2, rate=1.0), seed=3))
    assert all((a[1] == b[1]).all() for a, b in zip(plan, again, strict=True))


def test_fine_tuning_follows_the_loss() -> None:
    """Weights that need no gradient stay; the others go where the loss is smaller."""
    model = torch.nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    before = model.bias.item()
    plan = batches(8, Training(steps=300, batch=2, rate=0.1), seed=0)
    training = Training(steps=300, batch=2, rate=0.1, precision="float32")

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        x = chosen[:, None].float()
        return (model(x) - 3 * x - before).square().mean()

    fine_tuning(model, plan, loss, training, "toy")
    assert model.weight.item() == pytest.approx(3, abs=0.1)
    assert model.bias.item() == before


def test_fine_tuning_stops_where_the_loss_is_not_finite() -> None:
    """It names the run, so that nothing half-trained looks complete."""
    model = torch.nn.Linear(1, 1)
    plan = batches(8, TRAINING, seed=0)
    with pytest.raises(ValueError, match="toy: the loss is nan"):
        fine_tuning(
            model,
            plan,
            lambda chosen: model.weight.sum() * float("nan"),
            TRAINING,
            "toy",
        )


def test_fine_tunes_are_made_once(tmp_path: Path) -> None:
    """Each task, seed and training has a folder, which is used again."""
    suite, place = Toy(), Place(tmp_path)
    first = fine_tuned(suite, place, "odd", 1)
    assert fine_tuned(suite, place, "odd", 1) == first
    assert suite.trained == ["odd"]
    others = [
        fine_tuned(suite, place, "odd", 2),
        fine_tuned(suite, place, "even", 1),
        fine_tuned(suite, place, "odd", 1, Training(4, 2, 0.2, "float32")),
    ]
    assert len({first, *others}) == 4
    assert load_state(others[0])["w"].item() == 2


def test_interrupted_fine_tunes_are_made_again(tmp_path: Path) -> None:
    """What failed half-way does not look complete."""
    suite, place = Toy(), Place(tmp_path)
    suite.fails = True
    with pytest.raises(RuntimeError):
        fine_tuned(suite, place, "odd", 1)
    suite.fails = False
    assert (fine_tuned(suite, place, "odd", 1) / "training.json").exists()
    assert suite.trained == ["odd", "odd"]


def test_items_are_read_once(tmp_path: Path) -> None:
    """The second time they come from the file."""
    calls = Counter()

    def make() -> dict:
        calls["made"] += 1
        return {"labels": 3, "parts": {"test": (torch.arange(3), ["a", "b"])}}

    first, second = (kept(tmp_path / "items" / "a.pt", make) for _ in range(2))
    assert calls["made"] == 1
    assert second["parts"]["test"][1] == first["parts"]["test"][1] == ["a", "b"]


def test_percent_right() -> None:
    """100 where the right label has the highest logit."""
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert percent_right(logits, [1, 1, 1]) == [100.0, 0.0, 100.0]


def test_evaluation_scores_parts_apart(tmp_path: Path) -> None:
    """Validation and test may be of different tasks; fine-tunes are scored once."""
    suite, place = Toy(), Place(tmp_path)
    folder = fine_tuned(suite, place, "odd", 5)
    for _ in range(2):
        evaluation = SuiteEvaluation(suite, place, ["even"], ["odd"])
        chosen = evaluation(folder, VALIDATION, lambda percent: None)
        shown = evaluation(folder, TEST, lambda percent: None)
    assert evaluation(folder, ALL, lambda percent: None) == shown
    assert {task: score.value for task, score in chosen.items()} == {"odd": 3.0}
    assert {task: score.value for task, score in shown.items()} == {"even": 2.5}
    assert suite.scored == ["odd validation", "even test"]
    assert evaluation.identity(VALIDATION) != evaluation.identity(TEST)


def test_merges_are_scored_every_time(tmp_path: Path) -> None:
    """Only what is an input keeps its scores: `compare` keeps those of merges."""
    suite = Toy()
    merged = tmp_path / "elsewhere"
    merged.mkdir()
    save_file({"w": torch.tensor([7.0])}, merged / "model.safetensors")
    evaluation = SuiteEvaluation(suite, Place(tmp_path / "work"), ["odd"])
    for _ in range(2):
        evaluation(merged, TEST, lambda percent: None)
    assert suite.scored == ["odd test", "odd test"]


@pytest.mark.parametrize("tool", ["pip", "npm", "apt"])
def test_package_that_cannot_be_fetched(tool: str, tmp_path: Path) -> None:
    """One line names package and tool; nothing is left that looks complete."""
    package = packages.Package(tool, "no-such-package-of-pcb", "0", "none")
    commands = {
        name: (lambda package, folder: (["false"], "is the network there?"))
        for name in ("pip", "npm", "apt")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "_COMMANDS", commands)
        with pytest.raises(Exception, match="cannot fetch no-such-package-of-pcb 0"):
            packages.unpack(package, tmp_path)
    assert not list(tmp_path.iterdir())
