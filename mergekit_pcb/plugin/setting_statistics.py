"""Statistics of a recipe's tensors under several settings, of the fewest passes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from mergekit.merge_methods import TensorGroup
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.plugin.graph_domain import GraphDomain
from mergekit_pcb.plugin.model_scope import (
    DomainStatistics,
    Parameters,
    StatisticsRequest,
)
from mergekit_pcb.plugin.tensor_groups import task_vectors

AllParameters = Sequence[dict[str, Any]]
"""The parameters of every tensor under one setting."""


def tensor_statistics(
    group: TensorGroup,
    present: Sequence[Hashable],
    settings: Sequence[Parameters],
) -> list[DomainStatistics]:
    """For each setting the statistics of the tensor, which is the domain."""
    if not settings:
        return []
    # Models without the tensor do not take part.
    own = [
        {**each, "density": {model: each["density"][model] for model in present}}
        for each in settings
    ]
    domain = TensorDomain([task_vectors(group, present)])
    return [StatisticsRequest.of(own).compute(domain)] * len(own)


def whole_model_statistics(
    merges: Sequence[ExecuteMergeMethodTask],
    settings: Sequence[AllParameters],
    options: MergeOptions,
) -> list[DomainStatistics | None]:
    """For each setting the statistics of its whole-model domain, if it has one."""
    # Settings that rank the same tensors together share the passes over them.
    domains: dict[tuple[int, ...], list[int]] = {}
    for k, parameters in enumerate(settings):
        ranked = (i for i, b in enumerate(parameters) if b["scope"] == "model")
        domains.setdefault(tuple(ranked), []).append(k)
    statistics: list[DomainStatistics | None] = [None] * len(settings)
    for members, sharing in domains.items():
        if not members:
            continue
        request = StatisticsRequest.of(
            [settings[k][i] for k in sharing for i in members]
        )
        domain = GraphDomain.of([merges[i] for i in members], request.models, options)
        found = request.compute(domain) if domain.size else None
        for k in sharing:
            statistics[k] = found
    return statistics
