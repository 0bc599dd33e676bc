"""The plan of a merge: which of its tasks are ours, and copies that say more.

mergekit's tasks are immutable. What a merge needs to know, statistics of the model or
where to note what `lambda: auto` became, is added to the parameters of copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from immutables import Map
from mergekit.graph import Task
from mergekit.io.tasks import FinalizeModel
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask

from mergekit_pcb.plugin.lambda_record import (
    RECORD_KEY,
    FinalizeAndTell,
    LambdaRecord,
)
from mergekit_pcb.plugin.model_scope import (
    DIGESTS_KEY,
    STATISTICS_KEY,
    DomainStatistics,
)
from mergekit_pcb.plugin.parameters import AUTO


def pcb_tasks(tasks: Sequence[Task[Any]]) -> list[ExecuteMergeMethodTask]:
    """The merge tasks of this method among a plan's targets."""
    merges = [getattr(task, "tensor_task", None) for task in tasks]
    return [
        merge
        for merge in merges
        if isinstance(merge, ExecuteMergeMethodTask)
        and merge.method_name == "pcb"
        # A method `pcb` of a later mergekit would have other parameters.
        and "statistics" in merge.parameters
    ]


def whole_model_tasks(tasks: Sequence[Task[Any]]) -> list[ExecuteMergeMethodTask]:
    """The merge tasks among a plan's targets that make up the domain."""
    merges = pcb_tasks(tasks)
    return [merge for merge in merges if merge.parameters["scope"] == "model"]


def parameters_of(merge: ExecuteMergeMethodTask) -> dict[str, Any]:
    """The parameters of a merge task, `density` and `weight` by model."""
    # In the order of the recipe, which `input_parameters`, a hashed map, has lost.
    models = [
        model
        for model in merge.model_order
        # If slices differ in their sources, mergekit lists models it does not load.
        if model != merge.base_model and model in merge.input_parameters
    ]
    by_model = {
        name: {model: merge.input_parameters[model][name] for model in models}
        for name in ("density", "weight")
    }
    return {**dict(merge.parameters.items()), **by_model}


def with_statistics(
    tasks: Sequence[Task[Any]],
    statistics: DomainStatistics,
    digests: Mapping[str, Sequence[bytes]],
) -> list[Task[Any]]:
    """The plan's targets, with statistics among the parameters of the merge tasks.

    Args:
        tasks: the plan's targets.
        statistics: of the domain.
        digests: of each model's weights, by the name of the tensor.
    """

    def parameters(merge: ExecuteMergeMethodTask) -> dict[str, Any]:
        bound = parameters_of(merge)
        added = {
            "lambda": statistics.scale(bound),
            STATISTICS_KEY: statistics.of_tensor(bound),
        }
        if merge.output_weight.name in digests:
            added[DIGESTS_KEY] = tuple(digests[merge.output_weight.name])
        return added

    return _with_parameters(tasks, whole_model_tasks(tasks), parameters)


def with_lambda_record(
    tasks: Sequence[Task[Any]], record: LambdaRecord
) -> list[Task[Any]]:
    """The plan's targets, whose last one tells what `lambda: auto` became."""
    automatic = [m for m in pcb_tasks(tasks) if m.parameters["lambda"] == AUTO]
    tasks = _with_parameters(tasks, automatic, lambda _: {RECORD_KEY: record})
    return [
        FinalizeAndTell(**dict(task), record=record)
        if type(task) is FinalizeModel
        else task
        for task in tasks
    ]


def _with_parameters(
    tasks: Sequence[Task[Any]],
    merges: Sequence[ExecuteMergeMethodTask],
    parameters: Callable[[ExecuteMergeMethodTask], Mapping[str, Any]],
) -> list[Task[Any]]:
    """The plan's targets, with more parameters for some of its merge tasks."""
    members = {id(merge): merge for merge in merges}
    replaced: dict[int, Task[Any]] = {}
    for task in tasks:
        merge = members.get(id(getattr(task, "tensor_task", None)))
        if merge is not None:
            added = {**dict(merge.parameters.items()), **parameters(merge)}
            merge = merge.model_copy(update={"parameters": Map(added)})
            replaced[id(task)] = task.model_copy(update={"tensor_task": merge})

    def current(task: Task[Any]) -> Task[Any]:
        return replaced.get(id(task), task)

    result = []
    for task in map(current, tasks):
        # The task that completes the output has every save task as an argument.
        saves = getattr(task, "tensor_save_tasks", None)
        if saves is not None:
            replacements = tuple(map(current, saves))
            task = task.model_copy(update={"tensor_save_tasks": replacements})
        result.append(task)
    return result
