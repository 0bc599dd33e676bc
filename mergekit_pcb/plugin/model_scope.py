"""`scope: model`: all tensors of a merge are one domain, as published.

A model that lacks an optional tensor counts as having left it untouched: its task
vector is zero there. A tensor's own `density` picks its threshold from the ranking of
the whole model.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit.merge_methods import TensorGroup

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.formula import (
    Domain,
    ModelStatistics,
    Options,
    model_statistics,
)
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.plugin.tensor_groups import task_vectors

Parameters = Mapping[str, Any]
"""Of one tensor: shared parameters by name, `density` by input id."""

DomainStatistics = Mapping[Hashable, Mapping[float, ModelStatistics]]
"""For each model, by input id, and each of its densities, the domain's statistics."""

TensorStatistics = tuple[tuple[Hashable, ModelStatistics], ...]
"""Every model of the domain, with its statistics at one tensor's densities."""

KEY = "model_statistics"
"""Where a tensor's parameters carry its `TensorStatistics`."""


@dataclass(frozen=True)
class StatisticsRequest:
    """What must be known of a domain before any of its tensors can be merged.

    Weights and lambda are not in it: they decide nothing.

    Attributes:
        inter, clamp: parameters that all tensors of the domain share.
        density: for each model, by input id, the densities that tensors ask for.
    """

    inter: str
    clamp: float
    density: Mapping[Hashable, Sequence[float]]

    @classmethod
    def of(cls, tensors: Sequence[Parameters]) -> StatisticsRequest:
        """What the parameters of the domain's tensors ask for.

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

    def ask(self, domain: Domain) -> DomainStatistics:
        """Sweep the domain for the answer."""
        statistics = model_statistics(
            domain, list(self.density.values()), Options(self.inter, self.clamp)
        )
        return {
            model: dict(zip(self.density[model], found, strict=True))
            for model, found in zip(self.models, statistics, strict=True)
        }


def for_tensor(answer: DomainStatistics, parameters: Parameters) -> TensorStatistics:
    """The statistics of every model at the densities of one tensor."""
    density = parameters["density"]
    return tuple(
        # A model that lacks the tensor competes nowhere on it, at any density.
        (model, found[density.get(model, next(iter(found)))])
        for model, found in answer.items()
    )


def take_statistics(
    groups: Sequence[TensorGroup], parameters: Sequence[dict[str, Any]]
) -> None:
    """Give the parameters of all groups under `scope: model` their statistics.

    Args:
        groups: every tensor of the model, in memory and of the dtype to merge in.
        parameters: the bound parameters of each; `KEY` is added.
    """
    members = [
        (group, bound)
        for group, bound in zip(groups, parameters, strict=True)
        if bound["scope"] == "model" and group.non_base
    ]
    question = StatisticsRequest.of([bound for _, bound in members])
    tensors = [task_vectors(group, question.models) for group, _ in members]
    domain = TensorDomain([tensor for tensor in tensors if tensor.size])
    if domain.tensors:
        answer = question.ask(domain)
        for _, bound in members:
            bound[KEY] = for_tensor(answer, bound)
