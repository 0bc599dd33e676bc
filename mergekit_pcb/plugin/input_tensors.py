"""Whether everything that a plan loads is there, before any weight is read."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.merge_methods.task_adapter import (
    ExecuteMergeMethodTask,
    TensorDictWrapper,
)

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import (
    file_problem,
    missing_tensor,
    tensor_names,
)
from mergekit_pcb.plugin.method import PCB


def require_input_tensors(merges: Iterable[ExecuteMergeMethodTask]) -> None:
    """Check merge tasks by the indices and headers of the checkpoints.

    Raises:
        PCBError: names a file that is damaged or lacks a tensor, or a tensor that the
            base lacks and another model has.
    """
    names_in = functools.cache(_names_in)
    for merge in merges:
        found = {}
        for model, index, name in _loads(merge.gather_tensors):
            found[model] = name is not None
            if name is None:
                continue
            shard = Path(index.base_path, index.tensor_paths[name])
            names = names_in(shard)
            if names is not None and name not in names:
                raise PCBError(missing_tensor(shard, name) or "")
        present = [model for model in merge.model_order if found.get(model)]
        base = merge.base_model
        # mergekit may convert a tensor from others if nobody has it by its name.
        if present and base is not None and not found.get(base, True):
            PCB.validate_inputs(present, base, group_name=merge.output_weight.name)


def _names_in(shard: Path) -> set[str] | None:
    """The tensors in a weight file, or None if that takes reading all of it."""
    if problem := file_problem(shard):
        raise PCBError(problem)
    return tensor_names(shard) if shard.suffix.lower() == ".safetensors" else None


def _loads(
    task: Task[Any],
) -> Iterator[tuple[ModelReference, ShardedTensorIndex, str | None]]:
    """Each model that a task loads a tensor of, its index, and the tensor's name."""
    if isinstance(task, LoadTensor):
        loader = LoaderCache().get(task.model)
        yield task.model, loader.index, task._resolve_name(loader)
    elif isinstance(task, TensorDictWrapper):
        from mergekit.scripts.merge_raw_pytorch import (
            SimpleLoaderCache,
            SimpleLoadTensor,
        )

        for model, load in task.tensors.items():
            assert isinstance(load, SimpleLoadTensor)
            index = SimpleLoaderCache().get(load.model).index
            there = load.tensor_name in index.tensor_paths
            yield model, index, load.tensor_name if there else None
    else:
        for argument in task.arguments().values():
            yield from _loads(argument)
