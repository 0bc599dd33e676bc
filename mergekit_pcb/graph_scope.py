"""`scope: model` from a recipe: statistics as tasks of mergekit's lazy graph.

The planner's merge tasks say which tensors there are and how to load them. The same
loading tasks run ahead of the merge, once to draw a sample and twice for the
statistics, under mergekit's own executors: lazily, tensor by tensor, each result a few
numbers. The answer goes into the merge tasks' parameters, and the graph that is then
executed is the ordinary one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from immutables import Map
from mergekit.common import ModelReference
from mergekit.graph import Executor, Task
from mergekit.merge_methods import TensorEntry, TensorGroup, TensorMetadata
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.multigpu_executor import MultiGPUExecutor
from mergekit.options import MergeOptions

from mergekit_pcb.inputs import naming_culprit, task_vectors
from mergekit_pcb.model_scope import KEY, Answer, for_tensor
from mergekit_pcb.sweeps import Measure, Survey, TaskVectors, survey_tensor

# Coordinates in the sample: one in so many, up to this many, and at least these.
_SAMPLE_RATE = 512
_SAMPLE_MOST = 1 << 22
_SAMPLE_LEAST = 1 << 12
# Values that a sweep may collect, of all models: 128 MB, beside gigabytes of weights.
_COLLECTED = 1 << 25


def whole_model_tasks(tasks: Sequence[Task[Any]]) -> list[ExecuteMergeMethodTask]:
    """The merge tasks among a plan's targets that make up the domain."""
    merges = [getattr(task, "tensor_task", None) for task in tasks]
    return [
        merge
        for merge in merges
        if isinstance(merge, ExecuteMergeMethodTask)
        and merge.method_name == "pcb"
        and merge.parameters["scope"] == "model"
    ]


def parameters_of(merge: ExecuteMergeMethodTask) -> dict[str, Any]:
    """The parameters of a merge task, `density` by model."""
    # The order of the models is that of the recipe, which a hashed map has lost.
    density = {
        model: merge.input_parameters[model]["density"]
        for model in merge.model_order
        if model != merge.base_model
    }
    return {**dict(merge.parameters.items()), "density": density}


def with_answer(tasks: Sequence[Task[Any]], answer: Answer) -> list[Task[Any]]:
    """The plan's targets, with their statistics given to the merge tasks."""
    members = {id(merge): merge for merge in whole_model_tasks(tasks)}
    replaced: dict[int, Task[Any]] = {}
    for task in tasks:
        merge = members.get(id(getattr(task, "tensor_task", None)))
        if merge is not None:
            statistics = for_tensor(answer, parameters_of(merge))
            parameters = Map({**dict(merge.parameters.items()), KEY: statistics})
            merge = merge.model_copy(update={"parameters": parameters})
            replaced[id(task)] = task.model_copy(update={"tensor_task": merge})

    def current(task: Task[Any]) -> Task[Any]:
        return replaced.get(id(task), task)

    result = []
    for task in map(current, tasks):
        # The task that completes the output waits for every save task by name.
        awaited = getattr(task, "tensor_save_tasks", None)
        if awaited is not None:
            saves = tuple(map(current, awaited))
            task = task.model_copy(update={"tensor_save_tasks": saves})
        result.append(task)
    return result


@dataclass(frozen=True)
class GraphDomain:
    """A domain whose tensors are loaded by tasks, anew for each sweep.

    Attributes:
        merges: the merge task of each tensor.
        references: the models, in the order of the task vectors.
        options: how to execute.
        sizes: coordinates of each tensor.
        drawn: (n, m) task vectors at m coordinates drawn uniformly.
    """

    merges: Sequence[ExecuteMergeMethodTask]
    references: Sequence[ModelReference]
    options: MergeOptions
    sizes: Sequence[int]
    drawn: torch.Tensor

    @classmethod
    def of(
        cls,
        merges: Sequence[ExecuteMergeMethodTask],
        references: Sequence[ModelReference],
        options: MergeOptions,
    ) -> GraphDomain:
        """Load every tensor once to draw a sample; touches little of each."""
        sizes, drawn = [], []
        work = Work(references, _draw)
        for size, tau in _run(merges, work, options, "PCB: sampling"):
            sizes.append(size)
            drawn.append(tau)
            _thin(sizes, drawn)
        total = sum(sizes)
        count = max(min(total // _SAMPLE_RATE, _SAMPLE_MOST), _SAMPLE_LEAST)
        shares = [round(count * size / total) for size in sizes] if total else []
        parts = [tau[:, :k] for tau, k in zip(drawn, shares, strict=True)]
        sample = torch.cat(parts, dim=1) if parts else torch.empty(len(references), 0)
        return cls(merges, references, options, sizes, sample)

    @property
    def models(self) -> int:
        """Number n of models."""
        return len(self.references)

    @property
    def size(self) -> int:
        """Number d of coordinates."""
        return sum(self.sizes)

    @property
    def room(self) -> int:
        """How many values, of all models, a sweep may collect."""
        return _COLLECTED

    def sample(self) -> torch.Tensor:
        """The (n, m) task vectors at m coordinates drawn uniformly."""
        return self.drawn

    def sweep(self, measure: Measure, survey: Survey) -> None:
        """Show ``survey`` the ``measure`` of every tensor, loading each once."""

        def look(vectors: TaskVectors, name: str) -> Survey:
            seen = survey.fresh()
            survey_tensor(vectors, measure, seen)
            return seen.on_cpu()

        work = Work(self.references, look)
        label = f"PCB: {measure.__name__.strip('_')}"
        for seen in _run(self.merges, work, self.options, label):
            survey.absorb(seen)


@dataclass(frozen=True, eq=False)
class Work:
    """What to do with the task vectors of each tensor; compared by identity.

    Attributes:
        references: the models, in the order of the task vectors.
        do: gets the task vectors and the tensor's name.
    """

    references: Sequence[ModelReference]
    do: Callable[[TaskVectors, str], Any]


class StatisticsTask(Task[Any], frozen=True, arbitrary_types_allowed=True):
    """Load the inputs of one merge task, and do the work on their task vectors."""

    merge: ExecuteMergeMethodTask
    work: Work

    def arguments(self) -> dict[str, Task[Any]]:
        """The merge task's own inputs: the loading is mergekit's."""
        return self.merge.arguments()

    def group_label(self) -> str | None:
        """Where in the schedule the merge task would be: shard by shard."""
        return self.merge.group_label()

    def uses_accelerator(self) -> bool:
        """Where the merge computes, so do its statistics."""
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
        if group.base is None or not group.non_base or not _floating(group):
            return None
        group.validate_tensors()
        vectors = task_vectors(group, self.work.references)
        if not vectors.size:
            return None
        with naming_culprit([group]):
            return self.work.do(vectors, merge.output_weight.name)


def _floating(group: TensorGroup) -> bool:
    return any(tensor.is_floating_point() for tensor in group.tensors)


def _run(
    merges: Sequence[ExecuteMergeMethodTask],
    work: Work,
    options: MergeOptions,
    label: str,
) -> Iterator[Any]:
    """Results of the work on each tensor, as run_merge would execute the merge."""
    tasks: list[Task[Any]] = [
        StatisticsTask(merge=merge, work=work) for merge in merges
    ]
    cpu = torch.device("cpu")
    results: Iterator[tuple[Task[Any], Any]]
    if options.multi_gpu:
        several = MultiGPUExecutor(
            tasks, storage_device=None if options.low_cpu_memory else cpu
        )
        results = several.run(quiet=options.quiet)
    else:
        device = torch.device(options.device or "cpu")
        one = Executor(tasks, device, device if options.low_cpu_memory else cpu)
        results = one.run(quiet=options.quiet, desc=label)
    for _, result in results:
        if result is not None:
            yield result


def _draw(vectors: TaskVectors, name: str) -> tuple[int, torch.Tensor]:
    """The size of a tensor and its task vectors at random coordinates."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    count = max(vectors.size // _SAMPLE_RATE, _SAMPLE_LEAST)
    drawn = torch.randint(
        vectors.size, (count,), generator=generator, device=generator.device
    )
    return vectors.size, vectors.block(drawn.to(vectors.device)).cpu()


def _thin(sizes: Sequence[int], drawn: list[torch.Tensor]) -> None:
    """Halve what was drawn of large tensors when there is too much of it."""
    if sum(tau.shape[1] for tau in drawn) > 2 * _SAMPLE_MOST:
        share = _SAMPLE_MOST / sum(sizes)
        for i, (size, tau) in enumerate(zip(sizes, drawn, strict=True)):
            keep = max(int(size * share) + 1, _SAMPLE_LEAST)
            drawn[i] = tau[:, :keep].clone()
