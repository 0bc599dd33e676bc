"""What a search without labels loses: candidates, agreement and the table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from experiments import evidence, label_free, label_free_weights
from experiments.label_free_candidates import PEERS
from experiments.label_free_scores import COUNTS, WHOSE, Scorer
from experiments.label_free_table import chosen, table
from experiments.suites import registry
from experiments.suites.suite import Place
from mergekit_pcb.compare.evaluation import TEST, VALIDATION
from tests.experiments.test_evidence import TARGETS, Toy


class Classifier(Toy):
    """A linear layer; an item's label is what the task's target says of it."""

    def features(
        self, state: dict, task: str, part: str, count: int | None = None
    ) -> torch.Tensor:
        seed = TARGETS[task] + (10 if part == VALIDATION else 20)
        items = torch.randn(80, 10, generator=torch.Generator().manual_seed(seed))
        return items[:count] @ state["a.weight"].T

    def logits(self, task: str, features: torch.Tensor) -> torch.Tensor:
        return features

    def labels(self, task: str, part: str) -> list[int]:
        return self.features(self._target(task), task, part).argmax(1).tolist()

    def scores(self, state: dict, task: str, part: str) -> list[float]:
        right = self.features(state, task, part).argmax(1)
        return (100.0 * (right == torch.tensor(self.labels(task, part)))).tolist()


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SUITES", {"toy": Classifier})
    evidence.opened.cache_clear()


@pytest.mark.slow
def test_candidates_are_scored_with_and_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search's grid and the peers'; agreement goes with accuracy."""
    monkeypatch.setattr(label_free_weights, "EVALUATIONS", 12)
    case = {
        "suite": "toy",
        "group": "2 models",
        "seed": 0,
        "tasks": ["red", "green"],
    }
    found = label_free.measure(case, Place(tmp_path))
    rows = found["rows"]
    assert len(rows) == 1 + 9 * 3 + 3 * 28
    assert len({row["candidate"] for row in rows}) == len(rows)
    for row in rows:
        assert [len(row["agreement"][str(n)]) for n in COUNTS] == [16, 8, 4, 2, 1]
        assert [len(row["whose"][whose]) for whose in WHOSE] == [1, 2, 1]
    # Disjoint draws of all the same inputs have the same mean.
    for n in COUNTS[:-1]:
        draws = rows[0]["agreement"][str(n)]
        assert sum(draws) / len(draws) == pytest.approx(rows[0]["agreement"]["64"][0])
    # Of a peer, test items are scored of what its labels choose.
    for peer in PEERS:
        of_peer = [row for row in rows if row["from"] == peer]
        (shown,) = [row for row in of_peer if TEST in row]
        assert shown[VALIDATION] == max(row[VALIDATION] for row in of_peer)
    rows = [row for row in rows if row["from"] not in PEERS]
    assert len(rows) == 1 + 9 * 3
    order = sorted(rows, key=lambda row: row["agreement"]["64"][0])
    best, worst = order[:5], order[-5:]
    assert min(r[TEST] for r in best) > max(r[TEST] for r in worst)
    for pair in found["weights"].values():
        assert len(pair["weights"]) == 2
        assert pair["before"] == rows[0][TEST]
    text = "\n".join(table([(case, found)]))
    assert f"| pcb | nothing (untuned) | {rows[0][TEST]:.2f} |" in text


def test_whose_inputs() -> None:
    """Each expert is compared with its own head, on what other tasks are asked."""
    suite = Classifier(Place(Path()))
    states = [suite._target(task) for task in ("red", "green")]
    scorer = Scorer(suite, ["red", "green"], states)
    merged = {k: (states[0][k] + states[1][k]) / 2 for k in states[0]}
    found = scorer(merged)["whose"]

    def bits(model: dict, task: str) -> float:
        expert, own = (
            suite.features(state, task, VALIDATION, 64).log_softmax(1)
            for state in (model, merged)
        )
        divergence = torch.nn.functional.kl_div(
            own, expert, reduction="batchmean", log_target=True
        )
        return divergence.item() / math.log(2)

    red, green, blue = (
        [bits(state, task) for state in states] for task in ("red", "green", "blue")
    )
    expected = [
        [(green[0] + red[1]) / 2],
        [sum(red) / 2, sum(green) / 2],
        [sum(blue) / 2],
    ]
    for whose, values in zip(WHOSE, expected, strict=True):
        assert found[whose] == pytest.approx(values, abs=2e-6)


def test_choice_is_by_draw() -> None:
    """Each draw chooses for itself, and of equals the first."""
    rows = [
        {"candidate": "a", "agreement": {"32": [1.0, 3.0]}},
        {"candidate": "b", "agreement": {"32": [2.0, 2.0]}},
        {"candidate": "c", "agreement": {"32": [2.0, 2.0]}},
    ]
    best = chosen(rows, lambda row: row["agreement"]["32"])
    assert [row["candidate"] for row in best] == ["a", "b"]
