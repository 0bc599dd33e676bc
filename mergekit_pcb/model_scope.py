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

from mergekit_pcb.balancing import ModelStatistics
from mergekit_pcb.errors import PCBError
from mergekit_pcb.sweeps import Domain, TaskVectors, TensorDomain, model_statistics

Parameters = Mapping[str, Any]
TensorStatistics = tuple[tuple[Hashable, ModelStatistics], ...]
"""Each model's statistics, for one tensor's densities; every model of the domain."""


@dataclass(frozen=True)
class Question:
    """What must be known of a domain before any of its tensors can be merged.

    Attributes:
        inter, clamp: parameters that all tensors of the domain share.
        density: for each model, by input id, the densities that tensors ask for.
    """

    inter: str
    clamp: float
    density: Mapping[Hashable, Sequence[float]]

    @classmethod
    def of(cls, tensors: Sequence[Parameters]) -> Question:
        """What the bound parameters of the domain's tensors ask for.

        Raises:
            PCBError: ``inter`` or ``clamp`` differ between tensors.
        """
        for name in ("inter", "clamp"):
            values = sorted({parameters[name] for parameters in tensors})
            if len(values) > 1:
                raise PCBError(
                    f"{name} must be the same for every tensor under scope: model, "
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

    def answer(self, domain: Domain) -> Answer:
        """Sweep the domain, whose models stand in the order of ``density``."""
        statistics = model_statistics(
            domain, list(self.density.values()), inter=self.inter, clamp=self.clamp
        )
        return {
            model: dict(zip(densities, found, strict=True))
            for (model, densities), found in zip(
                self.density.items(), statistics, strict=True
            )
        }


Answer = Mapping[Hashable, Mapping[float, ModelStatistics]]


def for_tensor(answer: Answer, parameters: Parameters) -> TensorStatistics:
    """The statistics of every model at the densities of one tensor."""
    density = parameters["density"]
    return tuple(
        (
            model,
            found[density[model]] if model in density else next(iter(found.values())),
        )
        for model, found in answer.items()
    )


def task_vectors(group: TensorGroup, models: Sequence[Hashable]) -> TaskVectors:
    """The task vectors of all models of the domain on one tensor."""
    assert group.base is not None, "the contract requires a base"
    base = group.base.tensor
    present = {entry.id: entry.tensor for entry in group.non_base}
    return TaskVectors.of(base, [present.get(model, base) for model in models])


def take_statistics(
    groups: Sequence[TensorGroup], parameters: Sequence[dict[str, Any]]
) -> None:
    """Give the ``parameters`` of all groups under `scope: model` their statistics.

    Args:
        groups: every tensor of the model, in memory and of the dtype to merge in.
        parameters: the bound parameters of each; "statistics" is added.
    """
    members = [
        (group, bound)
        for group, bound in zip(groups, parameters, strict=True)
        if bound["scope"] == "model" and group.non_base
    ]
    if not members:
        return
    question = Question.of([bound for _, bound in members])
    models = list(question.density)
    tensors = [task_vectors(group, models) for group, _ in members]
    domain = TensorDomain([tensor for tensor in tensors if tensor.size])
    if not domain.tensors:
        return
    answer = question.answer(domain)
    for _, bound in members:
        bound["statistics"] = for_tensor(answer, bound)
