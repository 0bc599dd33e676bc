"""Work on the inputs of a merge, tensor by tensor, before or instead of merging them.

The loading tasks of the merge run on their own, by the executors of mergekit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import torch
from mergekit.common import (
    ModelReference,
    dtype_from_name,
    get_torch_accelerator_type,
)
from mergekit.graph import Task
from mergekit.merge_methods import TensorEntry, TensorGroup, TensorMetadata
from mergekit.merge_methods.dtype import align_dtype
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.multigpu_executor import MultiGPUExecutor
from mergekit.options import MergeOptions
from mergekit.tokenizer import BuildTokenizer
from tqdm import tqdm  # type: ignore[import-untyped]

from mergekit_pcb.plugin.tensor_groups import on_finite_inputs

Work = Callable[[TensorGroup], Any]
"""Gets base and models, one or more, of a floating-point tensor that is not empty."""


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
        tokenizers: dict[Task[Any], Any] = {}
        for task in tqdm(tasks, label, disable=options.quiet or not tasks):
            yield task, _result(task, device, tokenizers)

    for task, result in results():
        assert isinstance(task, StatisticsTask)
        name = task.merge.output_weight.name
        del pending[name]
        if result is not None:
            yield name, result


def _result(
    task: Task[Any], device: torch.device, tokenizers: dict[Task[Any], Any]
) -> Any:
    """What a task returns, once all that it needs was executed.

    mergekit's executors first compare each task with all others.

    Args:
        task: to be executed.
        device: where it computes, if it uses an accelerator.
        tokenizers: those known already, which take as long as many tensors.
    """
    if isinstance(task, BuildTokenizer) and task in tokenizers:
        return tokenizers[task]
    needed = {
        name: _result(each, device, tokenizers)
        for name, each in task.arguments().items()
    }
    if task.uses_accelerator():
        needed = {name: _moved(value, device) for name, value in needed.items()}
    result = task.execute(**needed)
    if isinstance(task, BuildTokenizer):
        tokenizers[task] = result
    return result


def _moved(value: Any, device: torch.device) -> Any:
    """A tensor, or those in a dictionary, on a device."""
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value
