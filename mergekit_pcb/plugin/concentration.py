"""Models that keep nearly all of their coordinates in one kind of tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mergekit_pcb.kernel.domain import ModelStatistics, Scoring
from mergekit_pcb.kernel.formula import drop_and_rescale_, in_unit, ranked_values
from mergekit_pcb.plugin.digests import sample_counts
from mergekit_pcb.plugin.graph_domain import GraphDomain
from mergekit_pcb.plugin.model_scope import DomainStatistics
from mergekit_pcb.plugin.plan_tasks import parameters_of
from mergekit_pcb.plugin.tensor_kinds import kind_of

_MOST = 0.9


def concentrated(
    kept: Mapping[str, Sequence[float]], weights: Mapping[str, float]
) -> Iterator[tuple[int, str, float]]:
    """Index of a model, kind of tensor, and share of what the model keeps in it.

    Args:
        kept: for each kind of tensor how many coordinates each model keeps.
        weights: how many coordinates each kind has. One that has nearly all of them
            is no surprise.
    """
    total = sum(weights.values())
    for i, of_model in enumerate(zip(*kept.values(), strict=True)):
        for kind, count in zip(kept, of_model, strict=True):
            if count > _MOST * sum(of_model) and weights[kind] < _MOST * total:
                yield i, kind, count / sum(of_model)


def warnings(domain: GraphDomain, statistics: DomainStatistics) -> Iterator[str]:
    """A line for each such model of a merge, judged by the domain's sample."""
    kept: dict[str, list[float]] = {}
    weights: dict[str, float] = {}
    bound = {m.output_weight.name: parameters_of(m) for m in domain.merges}
    inter = next(iter(bound.values()))["inter"]
    counts = sample_counts(domain.sizes)
    parts = torch.split(domain.sampled, counts, dim=1)
    for name, size, part in zip(domain.names, domain.sizes, parts, strict=True):
        kind = kind_of(name)
        weights[kind] = weights.get(kind, 0) + size
        before = kept.setdefault(kind, [0.0] * domain.models)
        if not part.shape[1]:
            continue
        of_models = [each for _, each in statistics.of_tensor(bound[name])]
        shares = _kept_shares(part, of_models, inter)
        kept[kind] = [a + size * b for a, b in zip(before, shares, strict=True)]
    for i, kind, share in concentrated(kept, weights):
        yield one_line(domain.references[i], kind, share)


def one_line(model: Any, kind: str, share: float) -> str:
    """What is said of a model that is concentrated."""
    return (
        f"under scope: model, {model} keeps {share:.0%} of its coordinates in tensors "
        f"of one kind ({kind}) and hardly any elsewhere; try scope: tensor, or more "
        "density"
    )


def _kept_shares(
    tau: torch.Tensor, statistics: Sequence[ModelStatistics], inter: str
) -> list[float]:
    scoring = Scoring.of_statistics(statistics, inter)
    b = ranked_values(tau.contiguous(), scoring)
    s = drop_and_rescale_(b, in_unit(tau, scoring.unit), statistics)
    shares: list[float] = (s > 0).double().mean(dim=1).tolist()
    return shares
