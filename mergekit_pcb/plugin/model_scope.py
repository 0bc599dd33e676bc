"""`scope: model`: all tensors of a merge are one domain, as published.

A model that lacks an optional tensor counts as having left it unchanged: its task
vector is zero there. A tensor's own `density` selects a threshold from the ranking of
the whole model.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit.merge_methods import TensorGroup

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.domain import Domain, ModelStatistics, Options
from mergekit_pcb.kernel.formula import model_statistics
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.plugin.tensor_groups import task_vectors

Parameters = Mapping[str, Any]
"""Of one tensor: shared parameters by name, `density` by input id."""

DomainStatistics = Mapping[Hashable, Mapping[float, ModelStatistics]]
"""The domain's statistics for each model, by input id, and each of its densities."""

TensorStatistics = tuple[tuple[Hashable, ModelStatistics], ...]
"""Every model of the domain, with its statistics at one tensor's densities."""

STATISTICS_KEY = "model_statistics"
"""The name of `TensorStatistics` among the parameters of a tensor."""

DIGESTS_KEY = "input_digests"
"""The name of the digests of a tensor's models among its parameters."""


@dataclass(frozen=True)
class StatisticsRequest:
    """Which statistics of a domain are needed before its first tensor is merged.

    Statistics depend on neither weight nor lambda.

    Attributes:
        inter, clamp: parameters that all tensors of the domain share.
        density: for each model, by input id, its densities in all tensors.
    """

    inter: str
    clamp: float
    density: Mapping[Hashable, Sequence[float]]

    @classmethod
    def of(cls, tensors: Sequence[Parameters]) -> StatisticsRequest:
        """The request for the parameters of all tensors of the domain.

        Raises:
            PCBError: ``inter``, ``clamp`` or ``statistics`` differ between tensors.
        """
        for name in ("inter", "clamp", "statistics"):
            values = sorted({parameters[name] for parameters in tensors}, key=str)
            if len(values) > 1:
                raise PCBError(
                    f"{name} must be the same for all tensors under scope: model, "
                    f"got {values[0]} and {values[1]}"
                )
        density: dict[Hashable, dict[float, None]] = {}
        for parameters in tensors:
            for model, r in parameters["density"].items():
                density.setdefault(model, {})[r] = None
        return cls(
            tensors[0]["inter"],
            tensors[0]["clamp"],
            {model: tuple(each) for model, each in density.items()},
        )

    @property
    def models(self) -> list[Any]:
        """Input ids of all models of the domain, in the order of its task vectors."""
        return list(self.density)

    def compute(self, domain: Domain) -> DomainStatistics:
        """Compute the statistics in sweeps over the domain."""
        statistics = model_statistics(
            domain, list(self.density.values()), Options(self.inter, self.clamp)
        )
        return {
            model: dict(zip(self.density[model], found, strict=True))
            for model, found in zip(self.models, statistics, strict=True)
        }


def tensor_statistics(
    statistics: DomainStatistics, parameters: Parameters
) -> TensorStatistics:
    """The statistics of every model at the densities of one tensor."""
    density = parameters["density"]
    return tuple(
        # The task vector of a model that lacks the tensor is zero at any density.
        (model, by_density[density.get(model, next(iter(by_density)))])
        for model, by_density in statistics.items()
    )


def add_statistics(
    groups: Sequence[TensorGroup], parameters: Sequence[dict[str, Any]]
) -> None:
    """Add whole-model statistics to the parameters of groups under `scope: model`.

    Args:
        groups: every tensor of the model, in memory and of the dtype to merge in.
        parameters: the bound parameters of each; `STATISTICS_KEY` is added.
    """
    members = [
        (group, bound)
        for group, bound in zip(groups, parameters, strict=True)
        if bound["scope"] == "model" and group.non_base
    ]
    request = StatisticsRequest.of([bound for _, bound in members])
    tensors = [task_vectors(group, request.models) for group, _ in members]
    domain = TensorDomain([tensor for tensor in tensors if tensor.size])
    if domain.tensors:
        statistics = request.compute(domain)
        for _, bound in members:
            bound[STATISTICS_KEY] = tensor_statistics(statistics, bound)
