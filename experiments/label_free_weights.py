"""Weights of the models that a search by agreement finds, and one by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments.in_memory import added, auto_scale, merged_task_vector, task_vectors
from experiments.label_free_scores import Scorer
from experiments.suites.suite import State
from mergekit_pcb.compare.evaluation import Score
from mergekit_pcb.plugin.parameters import DEFAULT_DENSITY
from mergekit_pcb.search.weights import Budget, tune

EVALUATIONS = 60


def searched_weights(
    base: State, models: Sequence[State], scorer: Scorer
) -> dict[str, dict[str, Any]]:
    """Test scores before and after a search for weights by each score.

    It starts from pcb without parameters, and multiplies its weights.
    """
    tau = task_vectors(base, models)
    count = len(models)
    parts = [
        merged_task_vector(
            tau, DEFAULT_DENSITY, weight=[float(i == j) for j in range(count)]
        )
        for i in range(count)
    ]
    whole = {name: sum(part[name] for part in parts) for name in base}
    scale = auto_scale(whole, tau)

    def state(factors: Sequence[float]) -> State:
        merged = {
            name: sum(f * part[name] for f, part in zip(factors, parts, strict=True))
            for name in base
        }
        return added(base, merged, scale)

    found = {}
    equal = [1.0] * count
    before = scorer.shown(state(equal))
    for name, score in (
        ("agreement", scorer.by_agreement),
        ("labels", scorer.by_labels),
    ):
        start = score(state(equal))
        tried = {tuple(equal): _loss(start)}

        def losses(
            generation: Sequence[tuple[float, ...]],
            score: Any = score,
            tried: Any = tried,
        ) -> list[float]:
            found = [_loss(score(state(factors))) for factors in generation]
            tried.update(zip(generation, found, strict=True))
            return found

        tune(losses, count, Budget(EVALUATIONS), start)
        best = min(tried, key=lambda factors: tried[factors])
        found[name] = {
            "weights": list(best),
            "before": before,
            "after": scorer.shown(state(best)),
        }
    return found


def _loss(scores: Mapping[str, Score]) -> float:
    sign = -1 if next(iter(scores.values())).higher_is_better else 1
    return sign * fmean(score.value for score in scores.values())
