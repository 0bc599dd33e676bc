"""The anatomy of every tensor of a recipe, streamed through mergekit's own loaders."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from mergekit.merge_methods import TensorGroup
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_pcb.errors import PCBError
from mergekit_pcb.inspect.inspection import Described, Inspection, Part
from mergekit_pcb.inspect.plan import plan
from mergekit_pcb.inspect.tensor_kinds import kind_of, layer_of
from mergekit_pcb.kernel.formula import ModelStatistics, Options, model_statistics
from mergekit_pcb.kernel.metrics import Competition, Metrics, measure
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.plugin.graph_scope import GraphDomain, parameters_of, run_work
from mergekit_pcb.plugin.model_scope import (
    DomainStatistics,
    StatisticsRequest,
    tensor_statistics,
)
from mergekit_pcb.plugin.tensor_groups import name_of, task_vectors


@dataclass(frozen=True)
class Setting:
    """A scope and a density to look at, in place of the recipe's where given."""

    scope: str | None = None
    density: float | None = None

    def parameters(self, merge: ExecuteMergeMethodTask) -> dict[str, Any]:
        """What holds for one tensor, `density` by model."""
        found = parameters_of(merge)
        if self.scope is not None:
            found["scope"] = self.scope
        if self.density is not None:
            found["density"] = dict.fromkeys(found["density"], self.density)
        return found


def inspect_recipe(
    file: str,
    options: MergeOptions,
    *,
    densities: Iterable[float] = (),
    scopes: Iterable[str] = (),
    base: str | None = None,
) -> Inspection:
    """Look at what a recipe merges, under its own setting and others.

    Args:
        file: the recipe.
        options: as for a merge; ``quiet`` hides progress bars.
        densities: others to look at.
        scopes: others to look at, each with the recipe's densities and with those.
        base: takes the place of the recipe's base model, or of a missing one.

    Raises:
        PCBError: the recipe cannot be merged, or an input holds NaN or infinity.
    """
    planned = plan(file, options, base)
    merges = planned.merges
    if all(set(merge.model_order) <= {merge.base_model} for merge in merges):
        raise PCBError(f"{file} lists no model beside the base")
    bound: dict[Described, list[dict[str, Any]]] = {}
    for scope, density in product((None, *scopes), (None, *densities)):
        setting = Setting(scope, density)
        parameters = [setting.parameters(merge) for merge in merges]
        # Asking for what the recipe says anyway brings nothing new.
        bound.setdefault(Described.of(parameters), parameters)
    work = _Collecting(merges, list(bound.values()), options)
    found = dict(run_work(merges, work.look, options, "PCB: anatomy"))
    if not found:
        raise PCBError(f"{file} merges no tensor that its base model has")
    names = [merge.output_weight.name for merge in merges]
    return Inspection(
        recipe=file,
        method=planned.method,
        base=str(merges[0].base_model),
        models=tuple(str(model) for model in work.models),
        settings=tuple(bound),
        parts=tuple(
            Part(name, kind_of(name), layer_of(name), found[name])
            for name in names
            if name in found
        ),
        skipped=tuple(name for name in names if name not in found),
    )


class _Collecting:
    """Takes the tally of one tensor after the other, under all settings.

    Attributes:
        models: all models that have a task vector somewhere.
    """

    def __init__(
        self,
        merges: Sequence[ExecuteMergeMethodTask],
        settings: Sequence[Sequence[dict[str, Any]]],
        options: MergeOptions,
    ) -> None:
        """Ask for what must be known of whole models; takes passes over them.

        Args:
            merges: one a tensor.
            settings: for each, the parameters of every tensor.
            options: as for a merge.
        """
        by_name = zip(*settings, strict=True)
        names = [merge.output_weight.name for merge in merges]
        self._parameters = dict(zip(names, by_name, strict=True))
        self._weights: dict[str, dict[Hashable, float]] = {
            merge.output_weight.name: {
                model: own["weight"]
                for model, own in merge.input_parameters.items()
                if model != merge.base_model
            }
            for merge in merges
        }
        self.models: list[Hashable] = list(
            dict.fromkeys(model for bound in settings[0] for model in bound["density"])
        )
        self._answers = _answers(merges, settings, options)

    def look(self, group: TensorGroup) -> Metrics:
        """The tally of a tensor."""
        name = name_of(group)
        present = [entry.id for entry in group.non_base]
        parameters = self._parameters[name]
        ranked = [bound for bound in parameters if bound["scope"] == "tensor"]
        own = iter(_tensor_statistics(group, present, ranked))
        weights = self._weights[name]
        contests = []
        for bound, answer in zip(parameters, self._answers, strict=True):
            if bound["scope"] == "tensor":
                competing = dict(zip(present, next(own), strict=True))
            else:
                assert answer is not None, "asked for this very tensor"
                competing = dict(tensor_statistics(answer, bound))
            contests.append(
                Competition(
                    [self.models.index(model) for model in competing],
                    list(competing.values()),
                    [weights.get(model, 1.0) for model in competing],
                    bound["inter"],
                    bound["lambda"],
                )
            )
        return measure(task_vectors(group, self.models), contests, len(present))


def _tensor_statistics(
    group: TensorGroup,
    present: Sequence[Hashable],
    settings: Sequence[Mapping[str, Any]],
) -> list[tuple[ModelStatistics, ...]]:
    """For each setting the statistics of each model, the tensor being the domain."""
    if not settings:
        return []
    densities = [[bound["density"][model] for bound in settings] for model in present]
    of_models = model_statistics(
        TensorDomain([task_vectors(group)]),
        densities,
        Options(settings[0]["inter"], settings[0]["clamp"]),
    )
    return list(zip(*of_models, strict=True))


def _answers(
    merges: Sequence[ExecuteMergeMethodTask],
    settings: Sequence[Sequence[dict[str, Any]]],
    options: MergeOptions,
) -> list[DomainStatistics | None]:
    """For each setting what must be known of the whole model, if anything."""
    # Settings that rank the same tensors together share the passes over them.
    domains: dict[tuple[int, ...], list[int]] = {}
    for k, parameters in enumerate(settings):
        ranked = (i for i, b in enumerate(parameters) if b["scope"] == "model")
        domains.setdefault(tuple(ranked), []).append(k)
    answers: list[DomainStatistics | None] = [None] * len(settings)
    for members, asking in domains.items():
        if not members:
            continue
        question = StatisticsRequest.of(
            [settings[k][i] for k in asking for i in members]
        )
        domain = GraphDomain.of([merges[i] for i in members], question.models, options)
        answer = question.compute(domain) if domain.size else None
        for k in asking:
            answers[k] = answer
    return answers
