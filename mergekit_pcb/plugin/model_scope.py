"""`scope: model`: all tensors of a merge are one domain, as published.

A model that lacks an optional tensor counts as having left it unchanged: its task
vector is zero there. A tensor's own `density` selects a threshold from the ranking of
the whole model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit.merge_methods import TensorGroup

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.backends import backend_for_sample
from mergekit_pcb.kernel.domain import Domain, ModelStatistics, Options
from mergekit_pcb.kernel.formula import model_statistics
from mergekit_pcb.kernel.projection import auto_lambda, projections
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.plugin.digests import draw_coordinates, joined
from mergekit_pcb.plugin.parameters import AUTO, DEFAULT_WEIGHT
from mergekit_pcb.plugin.tensor_groups import name_of, task_vectors

# Coordinates of the sample that projections are computed of, at least.
_PROJECTED = 1 << 20

Parameters = Mapping[str, Any]
"""Of one tensor: shared parameters by name, `density` and `weight` by input id."""

Densities = tuple[float, ...]
"""One tensor's density of each model of the domain."""


TensorStatistics = tuple[tuple[Hashable, ModelStatistics], ...]
"""Every model of the domain, with its statistics at one tensor's densities."""

STATISTICS_KEY = "model_statistics"
"""The name of `TensorStatistics` among the parameters of a tensor."""

DIGESTS_KEY = "input_digests"
"""The name of the digests of a tensor's models among its parameters."""


@dataclass(frozen=True)
class DomainStatistics:
    """Statistics of a domain.

    Attributes:
        models: for each model, by input id, its statistics at each of its densities.
        projections: of all models, see `kernel.projection`, if all tensors of the
            domain had these densities.
    """

    models: Mapping[Hashable, Mapping[float, ModelStatistics]]
    projections: Mapping[Densities, Sequence[float]]

    def of_tensor(self, parameters: Parameters) -> TensorStatistics:
        """The statistics of every model at the densities of one tensor."""
        densities = _densities(parameters["density"], self.models)
        return tuple(
            (model, by_density[r])
            for (model, by_density), r in zip(
                self.models.items(), densities, strict=True
            )
        )

    def scale(self, parameters: Parameters) -> float:
        """The lambda of one tensor, a number also where the parameters say `auto`."""
        if parameters["lambda"] != AUTO:
            return float(parameters["lambda"])
        weight = [parameters["weight"].get(m, DEFAULT_WEIGHT) for m in self.models]
        densities = _densities(parameters["density"], self.models)
        return auto_lambda(self.projections[densities], weight)


def _densities(
    density: Mapping[Hashable, float],
    known: Mapping[Hashable, Iterable[float]],
) -> Densities:
    """A tensor's density of each model.

    The task vector of a model that lacks the tensor is zero, whatever the density.
    """
    return tuple(
        density[model] if model in density else next(iter(of_model))
        for model, of_model in known.items()
    )


@dataclass(frozen=True)
class StatisticsRequest:
    """Which statistics of a domain are needed before its first tensor is merged.

    Statistics depend on neither weight nor lambda.

    Attributes:
        inter, clamp: parameters that all tensors of the domain share.
        density: for each model, by input id, its densities in all tensors.
        together: densities that tensors have.
    """

    inter: str
    clamp: float
    density: Mapping[Hashable, Sequence[float]]
    together: Sequence[Densities]

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
        together = {_densities(of_tensor["density"], density) for of_tensor in tensors}
        return cls(
            tensors[0]["inter"],
            tensors[0]["clamp"],
            {model: tuple(each) for model, each in density.items()},
            sorted(together),
        )

    @property
    def models(self) -> list[Any]:
        """Input ids of all models of the domain, in the order of its task vectors."""
        return list(self.density)

    def compute(self, domain: Domain) -> DomainStatistics:
        """Compute the statistics in sweeps over the domain, and of its sample."""
        found = model_statistics(
            domain, list(self.density.values()), Options(self.inter, self.clamp)
        )
        statistics = {
            model: dict(zip(self.density[model], of_model, strict=True))
            for model, of_model in zip(self.models, found, strict=True)
        }
        sample = domain.sample()
        # A uniform sample as well, because of every tensor the same share is left.
        sample = sample[:, :: max(sample.shape[1] // _PROJECTED, 1)]
        backend = backend_for_sample(sample, self.inter)
        projected = {
            densities: projections(
                backend,
                sample.contiguous(),
                [
                    by_density[r]
                    for by_density, r in zip(
                        statistics.values(), densities, strict=True
                    )
                ],
                self.inter,
            )
            for densities in self.together
        }
        return DomainStatistics(statistics, projected)


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
    if not members:
        return
    request = StatisticsRequest.of([bound for _, bound in members])
    tensors = [task_vectors(group, request.models) for group, _ in members]
    names = [name_of(group) for group, _ in members]
    filled = [i for i, tensor in enumerate(tensors) if tensor.size]
    if filled:
        # The sample of `graph_domain`, so that lambda has the same bits.
        drawn = [
            (tensors[i].size, draw_coordinates(tensors[i], names[i]))
            for i in sorted(filled, key=names.__getitem__)
        ]
        domain = TensorDomain([tensors[i] for i in filled], sampled=joined(drawn))
        statistics = request.compute(domain)
        for _, bound in members:
            bound[STATISTICS_KEY] = statistics.of_tensor(bound)
            bound["lambda"] = statistics.scale(bound)
