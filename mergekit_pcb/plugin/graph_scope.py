"""`scope: model` from a recipe: statistics as tasks of mergekit's lazy graph.

The planner's merge tasks say which tensors there are and how to load them. The same
loading tasks run ahead of the merge, once to draw a sample and twice for the
statistics, under mergekit's own executors: lazily, tensor by tensor, each result a few
numbers. The answer goes into the merge tasks' parameters, and the graph that is then
executed is the ordinary one.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch
from immutables import Map
from mergekit.common import ModelReference, get_torch_accelerator_type
from mergekit.graph import Executor, Task
from mergekit.merge_methods import TensorEntry, TensorGroup, TensorMetadata
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.multigpu_executor import MultiGPUExecutor
from mergekit.options import MergeOptions

from mergekit_pcb.kernel.collectors import RankSearch
from mergekit_pcb.kernel.formula import Scoring
from mergekit_pcb.kernel.statistics import order_statistics, sweep_tensor
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.plugin.model_scope import KEY, DomainStatistics, for_tensor
from mergekit_pcb.plugin.tensor_groups import name_of, naming_culprit, task_vectors

# Coordinates in the sample: one in so many, up to this many, and at least these.
_SAMPLE_RATE = 512
_SAMPLE_MOST = 1 << 22
_SAMPLE_LEAST = 1 << 12
# Values that a sweep may collect, of all models: 128 MB, beside gigabytes of weights.
_COLLECTED = 1 << 25
# Values in a piece of memory for results.
_PIECE = 1 << 20


def pcb_tasks(tasks: Sequence[Task[Any]]) -> list[ExecuteMergeMethodTask]:
    """The merge tasks of this method among a plan's targets."""
    merges = [getattr(task, "tensor_task", None) for task in tasks]
    return [
        merge
        for merge in merges
        if isinstance(merge, ExecuteMergeMethodTask)
        and merge.method_name == "pcb"
        # If mergekit has a method of that name one day, that is another one.
        and "statistics" in merge.parameters
    ]


def whole_model_tasks(tasks: Sequence[Task[Any]]) -> list[ExecuteMergeMethodTask]:
    """The merge tasks among a plan's targets that make up the domain."""
    merges = pcb_tasks(tasks)
    return [merge for merge in merges if merge.parameters["scope"] == "model"]


def parameters_of(merge: ExecuteMergeMethodTask) -> dict[str, Any]:
    """The parameters of a merge task, `density` by model."""
    # The order of the models is that of the recipe, which a hashed map has lost.
    density = {
        model: merge.input_parameters[model]["density"]
        for model in merge.model_order
        # After slices of unequal many sources mergekit lists models it does not load.
        if model != merge.base_model and model in merge.input_parameters
    }
    return {**dict(merge.parameters.items()), "density": density}


def with_answer(
    tasks: Sequence[Task[Any]], answer: DomainStatistics
) -> list[Task[Any]]:
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


class TensorArena:
    """Memory for many small results, in few pieces.

    A small result that outlives the tensor it was computed from lies amid what that
    tensor and its intermediates leave free, which can then be neither used for the
    next tensor nor given back: memory would grow with the number of layers.
    """

    def __init__(self) -> None:
        self._piece = torch.empty(0, device="cpu")
        self._used = 0

    def keep(self, values: torch.Tensor) -> torch.Tensor:
        """A copy of values on the CPU, beside those kept before."""
        start, end = self._used, self._used + values.numel()
        if end > self._piece.numel() or values.dtype != self._piece.dtype:
            start, end = 0, values.numel()
            self._piece = values.new_empty(max(end, _PIECE))
        self._used = end
        return self._piece[start:end].view(values.shape).copy_(values)


@dataclass
class Drawn:
    """What the first pass learns of one tensor.

    No tuple: executors move the tensors in those to the device where results are kept.

    Attributes:
        size: coordinates d.
        tau: (n, m) task vectors at m coordinates drawn uniformly.
        digests: for each model what tells its weights and the base's from others.
    """

    size: int
    tau: torch.Tensor
    digests: Sequence[bytes]


@dataclass(frozen=True)
class GraphDomain:
    """A domain whose tensors are loaded by tasks, anew for each sweep.

    Attributes:
        merges: the merge task of each tensor.
        references: the models, in the order of the task vectors.
        options: how to execute.
        sizes: coordinates of each tensor.
        drawn: (n, m) task vectors at m coordinates drawn uniformly.
        digests: for each model what tells its weights and the base's from others.
    """

    merges: Sequence[ExecuteMergeMethodTask]
    references: Sequence[ModelReference]
    options: MergeOptions
    sizes: Sequence[int]
    drawn: torch.Tensor
    digests: Sequence[str]

    @classmethod
    def of(
        cls,
        merges: Sequence[ExecuteMergeMethodTask],
        references: Sequence[ModelReference],
        options: MergeOptions,
    ) -> GraphDomain:
        """Load every tensor once, to draw a sample and to recognise it again."""
        found: dict[str, Drawn] = {}
        work = Work.on(references, _draw)
        arena = TensorArena()
        count = 0
        for name, tensor in run_work(merges, work, options, "PCB: sampling"):
            found[name] = tensor
            tensor.tau = arena.keep(tensor.tau)
            count += tensor.tau.shape[1]
            if count > 2 * _SAMPLE_MOST:
                count = _thin(found.values())
        # Tensors arrive in an order that is not the same in the next process.
        tensors = sorted(found.items())
        sizes = [tensor.size for _, tensor in tensors]
        total = sum(sizes)
        count = max(min(total // _SAMPLE_RATE, _SAMPLE_MOST), _SAMPLE_LEAST)
        parts = [t.tau[:, : round(count * t.size / total)] for _, t in tensors]
        sample = torch.cat(parts, dim=1) if parts else torch.empty(len(references), 0)
        digests = [hashlib.sha256() for _ in references]
        for name, tensor in tensors:
            for digest, of_tensor in zip(digests, tensor.digests, strict=True):
                digest.update(f"{name} {tensor.size} ".encode() + of_tensor)
        hexadecimal = [digest.hexdigest() for digest in digests]
        return cls(merges, references, options, sizes, sample, hexadecimal)

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
        return self.drawn

    def order_statistics(
        self, scoring: Scoring | None, ranks: Sequence[list[int]]
    ) -> tuple[Sequence[Sequence[float]], Sequence[float]]:
        """Exact order statistics, see `kernel.formula.Domain`."""
        return order_statistics(self, scoring, ranks)

    def sweep(self, scoring: Scoring | None, search: RankSearch) -> None:
        """Show the search all magnitudes, or scores, loading each tensor once."""

        def sweep_one(vectors: TaskVectors, name: str) -> RankSearch:
            seen = search.fresh()
            sweep_tensor(vectors, scoring, seen)
            return seen

        work = Work.on(self.references, sweep_one)
        label = f"PCB: {'magnitudes' if scoring is None else 'scores'}"
        arena = TensorArena()
        for _, seen in run_work(self.merges, work, self.options, label):
            for bracket in itertools.chain.from_iterable(seen.brackets):
                if bracket.inside:
                    bracket.inside = [arena.keep(torch.cat(bracket.inside))]
            search.absorb(seen)


@dataclass(frozen=True, eq=False)
class Work:
    """What to do with the inputs of each tensor; compared by identity.

    Attributes:
        do: gets the base and at least one model, of a floating-point tensor that is
            not empty.
    """

    do: Callable[[TensorGroup], Any]

    @classmethod
    def on(
        cls,
        references: Sequence[ModelReference],
        do: Callable[[TaskVectors, str], Any],
    ) -> Work:
        """Work on the task vectors of these models, and the tensor's name."""
        return cls(lambda group: do(task_vectors(group, references), name_of(group)))


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
        if group.base is None or not group.non_base:
            return None
        # mergekit copies buffers, and refuses those that differ.
        if not all(tensor.is_floating_point() for tensor in group.tensors):
            return None
        group.validate_tensors()
        if not group.base.tensor.numel():
            return None
        with naming_culprit([group]):
            return self.work.do(group)


def run_work(
    merges: Sequence[ExecuteMergeMethodTask],
    work: Work,
    options: MergeOptions,
    label: str,
) -> Iterator[tuple[str, Any]]:
    """Name of each tensor that is merged, and the work's result; in any order."""
    waiting: dict[str, Task[Any]] = {
        merge.output_weight.name: StatisticsTask(merge=merge, work=work)
        for merge in merges
    }

    def results() -> Iterator[tuple[Task[Any], Any]]:
        # As run_merge would execute the merge.
        cpu = torch.device("cpu")
        device = torch.device(options.device or "cpu")
        if options.multi_gpu:
            device = torch.device(get_torch_accelerator_type())
            if not options.quiet:
                click.echo(f"{label}:", err=True)  # its own bar has no label
            several = MultiGPUExecutor(
                list(waiting.values()),
                storage_device=None if options.low_cpu_memory else cpu,
            )
            yield from several.run(quiet=options.quiet)
        # All of them, or those that MultiGPUExecutor has lost: its listener stops
        # when the last worker does, and leaves unread what came in just before.
        if waiting:
            one = Executor(
                list(waiting.values()),
                device,
                device if options.low_cpu_memory else cpu,
            )
            yield from one.run(quiet=options.quiet, desc=label)

    for task, result in results():
        assert isinstance(task, StatisticsTask)
        name = task.merge.output_weight.name
        del waiting[name]
        if result is not None:
            yield name, result


def _draw(vectors: TaskVectors, name: str) -> Drawn:
    """Task vectors at random coordinates, and checksums of everything."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    count = max(vectors.size // _SAMPLE_RATE, _SAMPLE_LEAST)
    where = torch.randint(
        vectors.size, (count,), generator=generator, device=generator.device
    )
    tau = vectors.at(where.to(vectors.device)).cpu()
    base = 0 if vectors.base is None else _checksum(vectors.base)
    digests = [
        # A sum does not see what has changed places; the sample does.
        hashlib.sha256(f"{base} {_checksum(model)} ".encode() + row.tobytes()).digest()
        for model, row in zip(vectors.models, tau.numpy(), strict=True)
    ]
    return Drawn(vectors.size, tau, digests)


def _checksum(flat: torch.Tensor) -> int:
    """A sum that no single change to the bits of a flat tensor leaves as it was."""
    data = flat.contiguous().view(torch.uint8)
    if data.storage_offset() % 8:
        data = data.clone()
    # Whole words: torch takes sixty times as long for single bytes.
    end = data.numel() // 8 * 8
    return int(data[:end].view(torch.int64).sum()) + int(data[end:].sum())


def _thin(tensors: Collection[Drawn]) -> int:
    """Drop about half of what was drawn; returns how much is left."""
    share = _SAMPLE_MOST / sum(tensor.size for tensor in tensors)
    arena = TensorArena()
    for tensor in tensors:
        keep = int(tensor.size * share) + 1
        tensor.tau = arena.keep(tensor.tau[:, :keep])
    return sum(tensor.tau.shape[1] for tensor in tensors)
