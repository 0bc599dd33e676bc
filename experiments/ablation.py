"""The parts of PCB-Merging left out one by one, each merge at its own lambda: auto.

Everything is merged in memory by `experiments.reference`, which is the published
algorithm with switches; its tests compare it with the authors' numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from experiments import reference
from experiments.cases import Case, Found, models_of
from experiments.in_memory import added, auto_scale, task_vectors
from experiments.reference import Parts
from experiments.suites.suite import Place, Suite
from mergekit_pcb.compare.evaluation import TEST
from mergekit_pcb.plugin.parameters import DEFAULT_DENSITY

# Parts, and what is ranked together: tensors, the model, or the model with each
# tensor's task vectors divided by their common root mean square.
VARIANTS: Mapping[str, tuple[Parts, str]] = {
    "pcb": (Parts(), "tensor"),
    "without clamp": (Parts(clamp=0.0), "tensor"),
    "clamp 0.0001": (Parts(clamp=0.0001), "tensor"),
    "without intra-balancing": (Parts(intra=False), "tensor"),
    "without inter-balancing": (Parts(inter="none"), "tensor"),
    "inter: normalized": (Parts(inter="normalized"), "tensor"),
    "inter: pairwise": (Parts(inter="pairwise"), "tensor"),
    "without drop": (Parts(drop=False), "tensor"),
    "without rescale": (Parts(rescale=False), "tensor"),
    "without drop and rescale": (Parts(drop=False, rescale=False), "tensor"),
    "scope: model": (Parts(), "model"),
    "scope: model, tensors in units of their RMS": (Parts(), "model, RMS"),
}


def cases(suite: Suite, seeds: Sequence[int]) -> list[Case]:
    """Three models and all of them, for each seed and variant."""
    sizes = dict.fromkeys((min(3, len(suite.tasks)), len(suite.tasks)))
    return [
        {
            "suite": suite.name,
            "group": f"{size} models",
            "seed": seed,
            "tasks": list(suite.tasks[:size]),
            "density": DEFAULT_DENSITY,
            "variant": variant,
        }
        for size in sizes
        for seed in seeds
        for variant in VARIANTS
    ]


def measure(case: Case, place: Place) -> Found:
    """Scores on test items, one mean a task."""
    suite, base, models = models_of(case, place)
    tau = task_vectors(base, models)
    parts, scope = VARIANTS[case["variant"]]
    merged = merged_by_reference(tau, case["density"], parts, scope)
    state = added(base, merged, auto_scale(merged, tau, whole=scope != "tensor"))
    values = {task: fmean(suite.scores(state, task, TEST)) for task in case["tasks"]}
    return {"values": values}


def merged_by_reference(
    tau: Mapping[str, Sequence[torch.Tensor]], density: float, parts: Parts, scope: str
) -> dict[str, torch.Tensor]:
    """The merged task vector at lambda 1, by tensor."""
    stacked = {
        name: torch.stack([v.flatten() for v in vectors])
        for name, vectors in tau.items()
    }
    merged: dict[str, Any]
    if scope == "tensor":
        merged = {
            name: reference.merge(one, density, parts) for name, one in stacked.items()
        }
    else:
        units = {
            name: one.square().mean().sqrt().item() if scope.endswith("RMS") else 1.0
            for name, one in stacked.items()
        }
        whole = torch.cat(
            [one / (units[name] or 1.0) for name, one in stacked.items()], 1
        )
        pieces = reference.merge(whole, density, parts).split(
            [one.shape[1] for one in stacked.values()]
        )
        merged = {
            name: piece * (units[name] or 1.0)
            for name, piece in zip(stacked, pieces, strict=True)
        }
    return {name: merged[name].view_as(vectors[0]) for name, vectors in tau.items()}
