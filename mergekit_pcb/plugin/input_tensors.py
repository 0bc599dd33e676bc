"""Whether what a plan loads can be merged, before its weights are read."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mergekit.common import ModelReference
from mergekit.graph import Task
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.merge_methods.task_adapter import (
    ExecuteMergeMethodTask,
    TensorDictWrapper,
)

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import (
    file_problem,
    missing_tensor,
    tensor_dtypes,
)
from mergekit_pcb.plugin.method import PCB

_INTEGERS = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL"}
_WORDS = {"I8": "int8", "U8": "uint8", "F8_E4M3": "float8", "F8_E5M2": "float8"}
# What quantisers call the factors of a tensor, behind its name.
SCALES = ("_scale_inv", "_scale", ".absmax", ".SCB")


class _Load(NamedTuple):
    """What is loaded of one model: the tensor's name there, or None if it lacks it."""

    model: ModelReference
    loader: LazyTensorLoader
    name: str | None
    dtype: str | None

    def tensor(self) -> torch.Tensor:
        assert self.name is not None
        found = self.loader.get_tensor(self.name)
        assert found is not None
        return found


def require_input_tensors(
    merges: Iterable[ExecuteMergeMethodTask], stops: dict[str, str] | None = None
) -> None:
    """Check merge tasks by the indices and headers of the checkpoints.

    Args:
        merges: one task a tensor.
        stops: gets, by tensor, what stops a merge and nothing else: a tensor that the
            base lacks, and integers that differ. By default these are errors as well.

    Raises:
        PCBError: names a file that is damaged, lacks a tensor or holds quantised
            weights; a tensor that the base lacks and another model has; or a buffer
            of integers that differs between the models.
    """
    dtypes_in = functools.cache(_dtypes_in)
    for merge in merges:
        tensor = merge.output_weight.name
        loads = list(_loads(merge.gather_tensors))
        present = [load for load in loads if load.name is not None]
        stored: dict[str, str] = {}
        for _, loader, name, _ in present:
            assert name is not None
            shard = Path(loader.index.base_path, loader.index.tensor_paths[name])
            dtypes = dtypes_in(shard)
            if dtypes is None:
                continue
            if name not in dtypes:
                raise PCBError(missing_tensor(shard, name) or "")
            scaled = any(name + end in loader.index.tensor_paths for end in SCALES)
            stored[f"{shard}: {name}"] = dtypes[name] + "*" * scaled
        require_weights(stored, loads[0].dtype if loads else None)
        models = [load.model for load in present]
        base = merge.base_model
        try:
            if stored and set(stored.values()) <= _INTEGERS:
                _require_equal(present, tensor)
            # mergekit may convert a tensor from others if nobody has it by its name.
            if models and base is not None and base not in models:
                PCB.validate_inputs(models, base, group_name=tensor)
        except PCBError as error:
            if stops is None:
                raise
            stops[tensor] = error.message


def _dtypes_in(shard: Path) -> dict[str, str] | None:
    """The tensors in a weight file, or None if that takes reading all of it."""
    if problem := file_problem(shard):
        raise PCBError(problem)
    return tensor_dtypes(shard) if shard.suffix.lower() == ".safetensors" else None


def require_weights(stored: Mapping[str, str], dtype: str | None) -> None:
    """Refuse quantised weights among the inputs of one tensor.

    mergekit would convert integers to the dtype of the merge, and ignore scales.

    Args:
        stored: the dtype of each input in its file, with ``*`` if it has scales.
        dtype: of the merge, if the recipe names one.
    """
    among_floats = not set(stored.values()) <= _INTEGERS
    for where, kind in stored.items():
        word = _WORDS.get(kind.rstrip("*"), kind.lower())
        if (kind in _INTEGERS and among_floats) or kind.endswith("*"):
            raise PCBError(
                f"{where} is {word}, the form of quantised weights, which cannot be "
                "merged: use the model before its quantisation"
            )
        if kind.startswith("F8") and dtype is None:
            raise PCBError(
                f"{where} is {word}, which cannot be merged as it is: write "
                "`dtype: bfloat16` in the recipe"
            )


def _require_equal(present: Sequence[_Load], tensor: str) -> None:
    """Refuse a buffer of integers that differs: mergekit copies it if all agree."""
    first, *others = present
    for other in others:
        if not torch.equal(first.tensor(), other.tensor()):
            raise PCBError(
                f"the integers in {tensor} differ between {first.model} and "
                f"{other.model}, and mergekit merges no integers: make them equal in "
                "all models"
            )


def _loads(task: Task[Any]) -> Iterator[_Load]:
    """What a task loads of each model."""
    if isinstance(task, LoadTensor):
        loader = LoaderCache().get(task.model)
        yield _Load(task.model, loader, task._resolve_name(loader), task.dtype)
    elif isinstance(task, TensorDictWrapper):
        from mergekit.scripts.merge_raw_pytorch import (
            SimpleLoaderCache,
            SimpleLoadTensor,
        )

        for model, load in task.tensors.items():
            assert isinstance(load, SimpleLoadTensor)
            loader = SimpleLoaderCache().get(load.model)
            there = load.tensor_name in loader.index.tensor_paths
            name = load.tensor_name if there else None
            yield _Load(model, loader, name, load.dtype)
    else:
        for argument in task.arguments().values():
            yield from _loads(argument)
