"""Merging task vectors in memory with the kernel, and how much of each is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from experiments.suites.suite import State
from mergekit_pcb.kernel.domain import Options
from mergekit_pcb.kernel.formula import model_statistics
from mergekit_pcb.kernel.merge import merge_one_tensor, merge_tensor
from mergekit_pcb.kernel.projection import scale_for
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.kernel.task_vectors import TaskVectors


def task_vectors(base: State, models: Sequence[State]) -> dict[str, list[torch.Tensor]]:
    """The float32 task vectors of each tensor, in the order of the models."""
    return {
        name: [model[name].float() - tensor.float() for model in models]
        for name, tensor in base.items()
    }


def merged_task_vector(
    tau: Mapping[str, Sequence[torch.Tensor]],
    density: float,
    *,
    scope: str = "tensor",
    weight: Sequence[float] | None = None,
    options: Options = Options(),  # noqa: B008 - it is immutable
) -> dict[str, torch.Tensor]:
    """The merged task vector at lambda 1, by tensor; weights are 1 unless given."""
    first = next(iter(tau.values()))
    weight = weight or [1.0] * len(first)
    densities = [density] * len(first)
    tensors = {name: TaskVectors.of(None, vectors) for name, vectors in tau.items()}
    if scope == "tensor":
        merged = {
            name: merge_one_tensor(tensor, densities, weight, options=options)
            for name, tensor in tensors.items()
        }
    else:
        domain = TensorDomain(list(tensors.values()))
        found = model_statistics(domain, [[r] for r in densities], options)
        statistics = [of_model[0] for of_model in found]
        merged = {
            name: merge_tensor(tensor, statistics, weight, inter=options.inter)
            for name, tensor in tensors.items()
        }
    return {name: merged[name].view_as(vectors[0]) for name, vectors in tau.items()}


@dataclass(frozen=True)
class Projections:
    """The mean over models of <tau_m, tau_i> / |tau_i|^2.

    Attributes:
        one: of all tensors together.
        own: of each tensor, without those where nobody moved.
    """

    one: float
    own: Mapping[str, float]


def projections(
    merged: State, tau: Mapping[str, Sequence[torch.Tensor]]
) -> Projections:
    """How much of each task vector the merged one keeps."""
    products = {
        name: [(merged[name].double() * vector.double()).sum() for vector in vectors]
        for name, vectors in tau.items()
    }
    squares = {
        name: [vector.double().square().sum() for vector in vectors]
        for name, vectors in tau.items()
    }

    def mean(names: Sequence[str]) -> float:
        product = torch.tensor([products[name] for name in names]).sum(0)
        square = torch.tensor([squares[name] for name in names]).sum(0)
        return (product / square)[square > 0].mean().item()

    moved = [name for name, values in squares.items() if any(values)]
    return Projections(mean(moved), {name: mean([name]) for name in moved})


def auto_scale(
    merged: State,
    tau: Mapping[str, Sequence[torch.Tensor]],
    *,
    whole: bool = False,
) -> dict[str, float]:
    """What `lambda: auto` becomes: each tensor's own, or one of the whole model."""
    found = projections(merged, tau)
    return {
        name: scale_for(found.one if whole else own, len(tau[name]))
        for name, own in found.own.items()
    }


def added(base: State, merged: State, scale: Mapping[str, float]) -> State:
    """The base plus the merged task vector times each tensor's lambda."""
    return {
        name: base[name] + scale.get(name, 0.0) * vector
        for name, vector in merged.items()
    }
