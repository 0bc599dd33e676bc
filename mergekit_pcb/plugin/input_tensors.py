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
from mergekit.io.tasks import GatherTensors, LoaderCache, LoadTensor
from mergekit.merge_methods.task_adapter import (
    ExecuteMergeMethodTask,
    TensorDictWrapper,
)

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import (
    StoredTensor,
    file_problem,
    missing_tensor,
    stored_tensors,
    wrapped_problem,
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
    tensors_in = functools.cache(_tensors_in)
    for merge in merges:
        tensor = merge.output_weight.name
        loads = list(_loads(merge.gather_tensors))
        present = [load for load in loads if load.name is not None]
        stored: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for _, loader, name, _ in present:
            assert name is not None
            shard = Path(loader.index.base_path, loader.index.tensor_paths[name])
            tensors = tensors_in(shard)
            if tensors is None:
                continue
            if name not in tensors:
                if problem := missing_tensor(shard, name) or wrapped_problem(shard):
                    raise PCBError(problem)
                continue
            scaled = any(name + end in loader.index.tensor_paths for end in SCALES)
            stored[f"{shard}: {name}"] = tensors[name].dtype + "*" * scaled
            shapes[f"{shard}: {name}"] = tensors[name].shape
        require_weights(stored, loads[0].dtype if loads else None)
        # Others make vocabularies of different sizes equal.
        if isinstance(merge.gather_tensors, (GatherTensors, TensorDictWrapper)):
            _require_one_shape(shapes)
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


def _tensors_in(shard: Path) -> dict[str, StoredTensor] | None:
    if problem := file_problem(shard):
        raise PCBError(problem)
    found = stored_tensors(shard)
    if found is None and (problem := file_problem(shard, thorough=True)):
        raise PCBError(problem)
    return found


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


def _require_one_shape(shapes: Mapping[str, tuple[int, ...]]) -> None:
    (first, shape), *others = shapes.items() or [("", ())]
    for where, other in others:
        if other != shape:
            raise PCBError(
                f"{where} is {other} in shape, and {first} {shape}: "
                "tensors of different shapes cannot be merged"
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


def loading_tasks(task: Task[Any]) -> Iterator[LoadTensor]:
    """The tasks of `mergekit-yaml` that load what a task needs."""
    if isinstance(task, LoadTensor):
        yield task
    else:
        for argument in task.arguments().values():
            yield from loading_tasks(argument)


def _loads(task: Task[Any]) -> Iterator[_Load]:
    """What a merge task loads of each model."""
    if not isinstance(task, TensorDictWrapper):
        for load in loading_tasks(task):
            loader = LoaderCache().get(load.model)
            yield _Load(load.model, loader, load._resolve_name(loader), load.dtype)
        return
    from mergekit.scripts.merge_raw_pytorch import SimpleLoaderCache, SimpleLoadTensor

    for model, simple in task.tensors.items():
        assert isinstance(simple, SimpleLoadTensor)
        loader = SimpleLoaderCache().get(simple.model)
        there = simple.tensor_name in loader.index.tensor_paths
        yield _Load(model, loader, simple.tensor_name if there else None, simple.dtype)
