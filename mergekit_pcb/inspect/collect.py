"""Metrics of every tensor of a recipe, streamed through mergekit's own loaders."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import product
from pathlib import Path

from mergekit.merge_methods import TensorGroup
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_pcb.errors import PCBError
from mergekit_pcb.inspect.inspection import InspectedTensor, Inspection, Setting
from mergekit_pcb.inspect.plan import plan
from mergekit_pcb.kernel.metrics import Competition, Metrics, measure
from mergekit_pcb.plugin.lambda_record import LambdaSummary
from mergekit_pcb.plugin.parameters import AUTO
from mergekit_pcb.plugin.plan_tasks import parameters_of
from mergekit_pcb.plugin.run_tasks import run_work
from mergekit_pcb.plugin.setting_statistics import (
    AllParameters,
    tensor_statistics,
    whole_model_statistics,
)
from mergekit_pcb.plugin.tensor_groups import name_of, task_vectors
from mergekit_pcb.plugin.tensor_kinds import kind_of


def inspect_recipe(
    file: str,
    options: MergeOptions,
    *,
    densities: Iterable[float] = (),
    scopes: Iterable[str] = (),
    base: str | None = None,
    out: Path | None = None,
) -> Inspection:
    """Measure what a recipe merges, under its own setting and others.

    Args:
        file: the recipe.
        options: as for a merge; ``quiet`` hides progress bars.
        densities: more settings: the recipe's with these densities.
        scopes: more settings: the recipe's with these scopes, at each density.
        base: takes the place of the recipe's base model, or of a missing one.
        out: a folder that must share no files with a model.

    Raises:
        PCBError: the recipe cannot be merged, or an input holds NaN or infinity.
    """
    method, merges, stops, dropped = plan(file, options, base, out)
    if all(set(merge.model_order) <= {merge.base_model} for merge in merges):
        raise PCBError(f"{file} lists no model beside the base")
    settings = _settings(merges, scopes, densities)
    bound = list(settings.values())
    models = list(dict.fromkeys(m for each in bound[0] for m in each["density"]))
    lambdas: list[list[float]] = [[] for _ in bound]
    metrics = _measure_tensors(merges, bound, models, options, lambdas)
    if not metrics:
        raise PCBError(f"{file} merges no tensor that its base model has")
    names = [merge.output_weight.name for merge in merges]
    return Inspection(
        recipe=file,
        method=method,
        base=str(merges[0].base_model),
        models=tuple(map(str, models)),
        settings=tuple(settings),
        tensors=tuple(
            InspectedTensor(name, kind_of(name), metrics[name])
            for name in names
            if name in metrics
        ),
        skipped=tuple(name for name in names if name not in metrics),
        stops=stops,
        dropped=dropped,
        lambdas=tuple(LambdaSummary.of(each) if each else None for each in lambdas),
    )


def _settings(
    merges: Sequence[ExecuteMergeMethodTask],
    scopes: Iterable[str],
    densities: Iterable[float],
) -> dict[Setting, AllParameters]:
    """Each scope with each density, the recipe's own first, none twice."""
    settings: dict[Setting, AllParameters] = {}
    for scope, density in product((None, *scopes), (None, *densities)):
        parameters = [parameters_of(merge) for merge in merges]
        for each in parameters:
            if scope is not None:
                each["scope"] = scope
            if density is not None:
                each["density"] = dict.fromkeys(each["density"], density)
        settings.setdefault(Setting.of(parameters), parameters)
    return settings


def _measure_tensors(
    merges: Sequence[ExecuteMergeMethodTask],
    settings: Sequence[AllParameters],
    models: Sequence[Hashable],
    options: MergeOptions,
    lambdas: Sequence[list[float]],
) -> dict[str, Metrics]:
    """By name the metrics of each tensor that is merged, under all settings.

    What `lambda: auto` becomes is added to ``lambdas``, a list for each setting.
    """
    whole_model = whole_model_statistics(merges, settings, options)
    index_of = {merge.output_weight.name: i for i, merge in enumerate(merges)}

    def measure_tensor(group: TensorGroup) -> Metrics:
        index = index_of[name_of(group)]
        inputs = dict(merges[index].input_parameters.items())
        present = [entry.id for entry in group.non_base]
        parameters = [setting[index] for setting in settings]
        by_tensor = [each for each in parameters if each["scope"] == "tensor"]
        own = iter(tensor_statistics(group, present, by_tensor))
        competitions = []
        for each, whole, noted in zip(parameters, whole_model, lambdas, strict=True):
            if each["scope"] == "tensor":
                statistics = next(own)
            else:
                assert whole is not None, "asked for this very tensor"
                statistics = whole
            competing = dict(statistics.of_tensor(each))
            scale = statistics.scale(each)
            if each["lambda"] == AUTO:
                noted.append(scale)
            competitions.append(
                Competition(
                    [models.index(model) for model in competing],
                    list(competing.values()),
                    # A model without this tensor has no weight, and no effect.
                    [inputs[m]["weight"] if m in inputs else 1.0 for m in competing],
                    each["inter"],
                    scale,
                )
            )
        return measure(task_vectors(group, models), competitions, len(present))

    return dict(run_work(merges, measure_tensor, options, "PCB: metrics"))
