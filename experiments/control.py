"""The published algorithm as a control: its merges and ours, scored on the same items.

The authors' code itself is no package. In its place stands `experiments.reference`,
which gives the numbers of all four copies of it bit for bit on the outputs that
`tests/data` holds. Settings are those of the published experiments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from experiments.ablation import merged_by_reference
from experiments.cases import Case, Found, models_of
from experiments.in_memory import added, merged_task_vector, task_vectors
from experiments.reference import Parts
from experiments.suites.suite import Place, Suite
from mergekit_pcb.compare.evaluation import TEST
from mergekit_pcb.kernel.domain import Options

# Published copies: settings as in the authors' repository, the whole model ranked.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "summary": {"inter": "raw", "clamp": 0.0001, "density": 0.1, "lambda": 1.0},
    "language": {"inter": "raw", "clamp": 0.01, "density": 0.1, "lambda": 1.5},
    "vision": {"inter": "normalized", "clamp": 0.01, "density": 0.05, "lambda": 1.2},
    "search": {"inter": "pairwise", "clamp": 0.01, "density": 0.05, "lambda": 1.0},
}


def cases(suite: Suite, seeds: Sequence[int]) -> list[Case]:
    """Three models of each seed, at each copy's settings."""
    return [
        {
            "suite": suite.name,
            "group": "3 models",
            "seed": seed,
            "tasks": list(suite.tasks[:3]),
            "copy": copy,
            **settings,
        }
        for seed in seeds
        for copy, settings in PUBLISHED.items()
    ]


def measure(case: Case, place: Place) -> Found:
    """Scores of both merges, and how far the merges are from each other."""
    suite, base, models = models_of(case, place)
    tau = task_vectors(base, models)
    parts = Parts(inter=case["inter"], clamp=case["clamp"])
    options = Options(inter=case["inter"], clamp=case["clamp"])
    merges = {
        "published": merged_by_reference(tau, case["density"], parts, "model"),
        "pcb:model": merged_task_vector(
            tau, case["density"], scope="model", options=options
        ),
    }
    values, right = {}, {}
    for name, merged in merges.items():
        state = added(base, merged, dict.fromkeys(merged, case["lambda"]))
        scores = {task: suite.scores(state, task, TEST) for task in case["tasks"]}
        flat = [item for items in scores.values() for item in items]
        right[name] = torch.tensor(flat)
        values[name] = {task: fmean(items) for task, items in scores.items()}
    theirs, ours = (
        torch.cat([tensor.flatten() for tensor in merged.values()]).double()
        for merged in merges.values()
    )
    return {
        "values": values,
        "items scored alike": (right["published"] == right["pcb:model"])
        .double()
        .mean()
        .item(),
        "relative distance": ((theirs - ours).norm() / theirs.norm()).item(),
        "coordinates apart": ((theirs - ours).abs() > 1e-6 * theirs.abs().max())
        .sum()
        .item(),
        "coordinates": len(ours),
    }
