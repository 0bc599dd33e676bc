"""Scores along lambda for many densities, with the lambda that auto takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from mergekit.merge_methods import merge_tensors

from experiments.cases import Case, Found, models_of
from experiments.in_memory import (
    added,
    auto_scale,
    merged_task_vector,
    projections,
    task_vectors,
)
from experiments.suites.suite import Place, State, Suite
from mergekit_pcb.compare.evaluation import TEST
from mergekit_pcb.kernel.projection import target

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
LAMBDAS = (0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
# So many of a suite's tasks: each curve scores them all nine times.
MOST_TASKS = 4
# At weights 1 and lambda 1; their curves are shown beside ours.
PEERS: Mapping[str, Mapping[str, Any]] = {
    "task_arithmetic": {"weight": 1.0},
    "ties": {"weight": 1.0, "density": 0.2},
}
# Task arithmetic sums, so its lambdas are smaller.
PEER_LAMBDAS = {"task_arithmetic": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25)}


def cases(suite: Suite, seeds: Sequence[int]) -> list[Case]:
    """The first `MOST_TASKS` tasks, for each seed."""
    tasks = suite.tasks[:MOST_TASKS]
    settings = [("pcb", density) for density in DENSITIES]
    settings += [(peer, PEERS[peer].get("density", 1.0)) for peer in PEERS]
    return [
        {
            "suite": suite.name,
            "group": f"{len(tasks)} models",
            "seed": seed,
            "tasks": list(tasks),
            "method": method,
            "density": density,
        }
        for seed in seeds
        for method, density in settings
    ]


def measure(case: Case, place: Place) -> Found:
    """The mean over tasks on test items, at each lambda and, of pcb, at auto."""
    suite, base, models = models_of(case, place)
    tau = task_vectors(base, models)
    lambdas = PEER_LAMBDAS.get(case["method"], LAMBDAS)

    def score(merged: State, scale: Mapping[str, float]) -> float:
        state = added(base, merged, scale)
        means = (fmean(suite.scores(state, task, TEST)) for task in case["tasks"])
        return round(fmean(means), 5)

    if case["method"] == "pcb":
        merged = merged_task_vector(tau, case["density"])
    else:
        merged = _by_peer(case["method"], base, models)
    curve = [score(merged, dict.fromkeys(merged, value)) for value in lambdas]
    found: Found = {"lambda": list(lambdas), "scores": curve}
    if case["method"] == "pcb":
        # Each tensor has its own lambda; the mark is put where one for all would be.
        found["auto"] = {
            "lambda": round(target(len(models)) / projections(merged, tau).one, 4),
            "score": score(merged, auto_scale(merged, tau)),
        }
    return found


def _by_peer(
    method: str, base: State, models: Sequence[State]
) -> dict[str, torch.Tensor]:
    return {
        name: merge_tensors(
            [tensor, *(model[name] for model in models)],
            method,
            parameters=dict(PEERS[method]),
            base_index=0,
        )
        - tensor
        for name, tensor in base.items()
    }
