"""Whether the base model has every tensor that its fine-tunes have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.merge_methods.task_adapter import (
    ExecuteMergeMethodTask,
    TensorDictWrapper,
)

from mergekit_pcb.plugin.method import PCB


def require_base_tensors(merges: Iterable[ExecuteMergeMethodTask]) -> None:
    """Check merge tasks by the indices of the checkpoints, without reading weights.

    Raises:
        PCBError: names the base, the tensor and the models that have it.
    """
    for merge in merges:
        found = dict(_found(merge.gather_tensors))
        present = [model for model in merge.model_order if found.get(model)]
        base = merge.base_model
        # mergekit may convert a tensor from others if nobody has it by its name.
        if present and base is not None and not found.get(base, True):
            PCB.validate_inputs(present, base, group_name=merge.output_weight.name)


def _found(task: Task[Any]) -> Iterator[tuple[ModelReference, bool]]:
    """Each model that a task loads a tensor of, and whether it has the tensor."""
    if isinstance(task, LoadTensor):
        loader = LoaderCache().get(task.model)
        yield task.model, task._resolve_name(loader) is not None
    elif isinstance(task, TensorDictWrapper):
        from mergekit.scripts.merge_raw_pytorch import (
            SimpleLoaderCache,
            SimpleLoadTensor,
        )

        for model, load in task.tensors.items():
            assert isinstance(load, SimpleLoadTensor)
            index = SimpleLoaderCache().get(load.model).index
            yield model, load.tensor_name in index.tensor_paths
    else:
        for argument in task.arguments().values():
            yield from _found(argument)
