"""`scope: model` from a recipe: statistics as tasks of mergekit's lazy graph.

The planner's merge tasks define which tensors there are and how to load them. The same
loading tasks run before the merge, once to draw a sample and twice for the statistics:
lazily, tensor by tensor, with a few numbers as each result. The statistics are added to
the parameters of the merge tasks, and mergekit then executes its own graph as usual.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch
from immutables import Map
from mergekit.common import (
    ModelReference,
    dtype_from_name,
    get_torch_accelerator_type,
)
from mergekit.graph import Task
from mergekit.io.tasks import FinalizeModel
from mergekit.merge_methods import TensorEntry, TensorGroup, TensorMetadata
from mergekit.merge_methods.dtype import align_dtype
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.multigpu_executor import MultiGPUExecutor
from mergekit.options import MergeOptions
from tqdm import tqdm  # type: ignore[import-untyped]

from mergekit_pcb.kernel.collectors import RankSearch, TensorArena
from mergekit_pcb.kernel.domain import Scoring
from mergekit_pcb.kernel.statistics import order_statistics, sweep_tensor
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.plugin.digests import (
    SAMPLE_MOST,
    TensorSample,
    draw,
    joined,
    most_needed,
)
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
from mergekit_pcb.plugin.small_tensors import SmallTensors
from mergekit_pcb.plugin.tensor_groups import name_of, on_finite_inputs, task_vectors

# Values that a sweep may collect, of all models: 128 MB.
_COLLECTED = 1 << 25


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


@dataclass(frozen=True)
class GraphDomain:
    """A domain whose tensors are loaded by tasks, again for each sweep.

    Attributes:
        merges: the merge task of each tensor.
        references: the models, in the order of the task vectors.
        options: how to execute.
        names, sizes: name and coordinates of each tensor, in order of the names.
        sampled: (n, m) task vectors at m coordinates drawn uniformly.
        digests: for each model a digest of its weights and the base's.
        tensor_digests: the same of each tensor, by its name.
        small: tensors that need not be loaded again.
    """

    merges: Sequence[ExecuteMergeMethodTask]
    references: Sequence[ModelReference]
    options: MergeOptions
    names: Sequence[str]
    sizes: Sequence[int]
    sampled: torch.Tensor
    digests: Sequence[str]
    tensor_digests: Mapping[str, Sequence[bytes]]
    small: SmallTensors

    @classmethod
    def of(
        cls,
        merges: Sequence[ExecuteMergeMethodTask],
        references: Sequence[ModelReference],
        options: MergeOptions,
    ) -> GraphDomain:
        """Load every tensor once, for a sample and for digests of the weights."""
        samples: dict[str, TensorSample] = {}
        small = SmallTensors()

        def draw_one(vectors: TaskVectors, name: str) -> TensorSample:
            small.keep(name, vectors)
            return draw(vectors, name)

        work = _on_task_vectors(references, draw_one)
        arena = TensorArena()
        count = seen = 0
        for name, tensor in run_work(merges, work, options, "PCB: sampling"):
            samples[name] = tensor
            seen += tensor.size
            needed = most_needed(tensor.size, seen)
            tensor.tau = arena.keep(tensor.tau[:, :needed])
            count += tensor.tau.shape[1]
            if count > 2 * SAMPLE_MOST:
                count = _thin(samples.values())
        # The order of results differs between processes.
        tensors = sorted(samples.items())
        sizes = [tensor.size for _, tensor in tensors]
        parts = [(tensor.size, tensor.tau) for _, tensor in tensors]
        sample = joined(parts) if parts else torch.empty(len(references), 0)
        digests = [hashlib.sha256() for _ in references]
        for name, tensor in tensors:
            for digest, of_tensor in zip(digests, tensor.digests, strict=True):
                digest.update(f"{name} {tensor.size} ".encode() + of_tensor)
        hexadecimal = [digest.hexdigest() for digest in digests]
        by_tensor = {name: tensor.digests for name, tensor in tensors}
        return cls(
            merges,
            references,
            options,
            list(by_tensor),
            sizes,
            sample,
            hexadecimal,
            by_tensor,
            small,
        )

    @property
    def models(self) -> int:
        """Number n of models."""
        return len(self.references)

    @property
    def size(self) -> int:
        """Number d of coordinates."""
        return sum(self.sizes)

    @property
    def capacity(self) -> int:
        """How many values, of all models, a sweep may collect."""
        return _COLLECTED

    def sample(self) -> torch.Tensor:
        """The (n, m) task vectors at m coordinates drawn uniformly."""
        return self.sampled

    def order_statistics(
        self, scoring: Scoring | None, ranks: Sequence[list[int]]
    ) -> tuple[Sequence[Sequence[float]], Sequence[float]]:
        """Exact order statistics, see `kernel.domain.Domain`."""
        return order_statistics(self, scoring, ranks)

    def sweep(self, scoring: Scoring | None, search: RankSearch) -> None:
        """Show the search all magnitudes, or scores, loading large tensors once."""

        def sweep_one(vectors: TaskVectors, name: str) -> RankSearch:
            seen = search.fresh()
            sweep_tensor(vectors, scoring, seen)
            return seen

        work = _on_task_vectors(self.references, sweep_one)
        label = f"PCB: {'magnitudes' if scoring is None else 'scores'}"
        arena = TensorArena()
        large = [m for m in self.merges if m.output_weight.name not in self.small.names]
        for vectors in self.small.task_vectors():
            sweep_tensor(vectors, scoring, search)
        for _, seen in run_work(large, work, self.options, label):
            for bracket in itertools.chain.from_iterable(seen.brackets):
                if bracket.inside:
                    bracket.inside = [arena.keep(torch.cat(bracket.inside))]
            search.absorb(seen)


Work = Callable[[TensorGroup], Any]
"""Gets base and models, one or more, of a floating-point tensor that is not empty."""


def _on_task_vectors(
    references: Sequence[ModelReference], do: Callable[[TaskVectors, str], Any]
) -> Work:
    """Work with the task vectors of these models, and the name of the tensor."""
    return lambda group: do(task_vectors(group, references), name_of(group))


class StatisticsTask(Task[Any], frozen=True):
    """Load the inputs of one merge task and work on them."""

    merge: ExecuteMergeMethodTask
    work: Work

    def arguments(self) -> dict[str, Task[Any]]:
        """The same loading tasks as those of the merge task."""
        return self.merge.arguments()

    def group_label(self) -> str | None:
        """The group of the merge task, so that shards are read one by one."""
        return self.merge.group_label()

    def uses_accelerator(self) -> bool:
        """Statistics are computed on the device that the merge computes on."""
        return self.merge.uses_accelerator()

    def execute(self, **inputs: Any) -> Any:
        """The work's result, or None for a tensor that is not merged."""
        merge = self.merge
        tensors: dict[ModelReference, torch.Tensor] = inputs["tensors"]
        entries = tuple(
            TensorEntry(model, tensors[model], is_base=model == merge.base_model)
            for model in merge.model_order
            if tensors.get(model) is not None
        )
        metadata = TensorMetadata.from_weight_info(merge.output_weight)
        group = TensorGroup(entries, metadata)
        if group.base is None or not group.non_base:
            return None
        # Integer buffers are not merged: mergekit copies them if they are equal.
        if not all(tensor.is_floating_point() for tensor in group.tensors):
            return None
        group.validate_tensors()
        if not group.base.tensor.numel():
            return None
        group = align_dtype(group, dtype_from_name(merge.dtype))
        return on_finite_inputs(group, self.work)[0]


def run_work(
    merges: Sequence[ExecuteMergeMethodTask],
    work: Work,
    options: MergeOptions,
    label: str,
) -> Iterator[tuple[str, Any]]:
    """Name and result of each tensor that is merged, in any order."""
    pending: dict[str, Task[Any]] = {
        merge.output_weight.name: StatisticsTask(merge=merge, work=work)
        for merge in merges
    }

    def results() -> Iterator[tuple[Task[Any], Any]]:
        # The same executor and devices as in mergekit's run_merge.
        cpu = torch.device("cpu")
        device = torch.device(options.device or "cpu")
        if options.multi_gpu and pending:
            device = torch.device(get_torch_accelerator_type())
            if not options.quiet:
                click.echo(f"{label}:", err=True)  # its progress bar has no label
            several = MultiGPUExecutor(
                list(pending.values()),
                storage_device=None if options.low_cpu_memory else cpu,
            )
            yield from several.run(quiet=options.quiet)
        # All tasks, or those whose results MultiGPUExecutor has lost: its listener
        # stops with the last worker and does not read the results just before.
        # In the order of shards, as an executor would.
        tasks = sorted(pending.values(), key=lambda task: task.group_label() or "")
        for task in tqdm(tasks, label, disable=options.quiet or not tasks):
            yield task, _result(task, device)

    for task, result in results():
        assert isinstance(task, StatisticsTask)
        name = task.merge.output_weight.name
        del pending[name]
        if result is not None:
            yield name, result


def _result(task: Task[Any], device: torch.device) -> Any:
    """What a task returns, once all that it needs was executed.

    mergekit's executors first compare each task with all others.
    """
    needed = {name: _result(each, device) for name, each in task.arguments().items()}
    if task.uses_accelerator():
        needed = {name: _moved(value, device) for name, value in needed.items()}
    return task.execute(**needed)


def _moved(value: Any, device: torch.device) -> Any:
    """A tensor, or those in a dictionary, on a device."""
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _thin(tensors: Collection[TensorSample]) -> int:
    """Drop about half of the samples; returns how many coordinates are left."""
    share = SAMPLE_MOST / sum(tensor.size for tensor in tensors)
    arena = TensorArena()
    for tensor in tensors:
        keep = int(tensor.size * share) + 1
        tensor.tau = arena.keep(tensor.tau[:, :keep])
    return sum(tensor.tau.shape[1] for tensor in tensors)
