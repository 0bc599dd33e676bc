"""What a search without labels loses: candidates, agreement and the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments import evidence, label_free
from experiments.label_free_table import COUNTS, chosen_by_agreement, table
from experiments.suites import registry
from experiments.suites.suite import Place
from mergekit_pcb.compare.evaluation import TEST, VALIDATION
from tests.experiments.test_evidence import TARGETS, Toy


class Classifier(Toy):
    """A linear layer; an item's label is what the task's target says of it."""

    def logits(self, state: dict, task: str, part: str) -> torch.Tensor:
        seed = TARGETS[task] + (10 if part == VALIDATION else 20)
        items = torch.randn(80, 10, generator=torch.Generator().manual_seed(seed))
        return items @ state["a.weight"].T

    def labels(self, task: str, part: str) -> list[int]:
        return self.logits(self._target(task), task, part).argmax(1).tolist()

    def scores(self, state: dict, task: str, part: str) -> list[float]:
        right = self.logits(state, task, part).argmax(1)
        return (100.0 * (right == torch.tensor(self.labels(task, part)))).tolist()


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SUITES", {"toy": Classifier})
    evidence.opened.cache_clear()


def test_candidates_are_scored_with_and_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search's grid and the peers'; agreement goes with accuracy."""
    monkeypatch.setattr(label_free, "EVALUATIONS", 12)
    case = {
        "suite": "toy",
        "group": "2 models",
        "seed": 0,
        "tasks": ["red", "green"],
    }
    found = label_free.measure(case, Place(tmp_path))
    rows = found["rows"]
    assert len(rows) == 1 + 9 * 3 + 6 + 6
    assert len({row["candidate"] for row in rows}) == len(rows)
    for row in rows:
        assert [len(row["agreement"][str(n)]) for n in COUNTS] == [16, 8, 4, 2, 1]
    # Disjoint draws of all the same inputs have the same mean.
    for n in COUNTS[:-1]:
        draws = rows[0]["agreement"][str(n)]
        assert sum(draws) / len(draws) == pytest.approx(rows[0]["agreement"]["64"][0])
    order = sorted(rows, key=lambda row: row["agreement"]["64"][0])
    best, worst = order[:5], order[-5:]
    assert min(r[TEST] for r in best) > max(r[TEST] for r in worst)
    for pair in found["weights"].values():
        assert len(pair["weights"]) == 2
        assert pair["before"] == rows[0][TEST]
    text = "\n".join(table([(case, found)]))
    assert f"| pcb | nothing (untuned) | {rows[0][TEST]:.2f} |" in text


def test_choice_is_by_draw() -> None:
    """Each draw chooses for itself, and of equals the first."""
    rows = [
        {"candidate": "a", "agreement": {"32": [1.0, 3.0]}},
        {"candidate": "b", "agreement": {"32": [2.0, 2.0]}},
        {"candidate": "c", "agreement": {"32": [2.0, 2.0]}},
    ]
    assert [r["candidate"] for r in chosen_by_agreement(rows, 32)] == ["a", "b"]
