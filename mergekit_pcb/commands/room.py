"""Whether there is room for a merge, by the headers of its inputs, before it begins."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mergekit.common import dtype_from_name
from mergekit.graph import Task
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.plan import MergePlanner
from safetensors import SafetensorError, safe_open

from mergekit_pcb.output.places import require_room

_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16}


class _Stored(NamedTuple):
    values: int
    bytes_each: float


@contextmanager
def room_required(out: Path) -> Iterator[None]:
    """Let mergekit's planner refuse what the disk cannot hold.

    Its plan is the first to know what is written, and the passes of `scope: model` come
    before the plan is returned.

    Args:
        out: the output folder.

    Raises:
        PCBError: there is too little room.
    """
    planner_class: Any = MergePlanner
    original = planner_class._plan

    def plan(planner: MergePlanner) -> None:
        original(planner)
        require_room(out, output_size(planner), "the merged weights")

    planner_class._plan = plan
    try:
        yield
    finally:
        planner_class._plan = original


def output_size(planner: MergePlanner) -> float:
    """About how many bytes the tensors of a plan have.

    Args:
        planner: has planned. Tensors of which no input is in a safetensors file, whose
            header would say their size, are not counted.
    """
    header = functools.cache(_header)
    out_dtype = planner.config.out_dtype
    return sum(
        _size(task, weight.force_dtype or out_dtype, header)
        for weight, task in planner._tensors
    )


def _size(
    task: Task[Any], dtype: str | None, header: Callable[[Path], dict[str, _Stored]]
) -> float:
    """The size of the first input of a tensor that is there, in the output's dtype."""
    for load in _loads(task):
        loader = LoaderCache().get(load.model)
        name = load._resolve_name(loader)
        if name is None:
            continue
        shard = Path(loader.index.base_path, loader.index.tensor_paths[name])
        stored = header(shard).get(name)
        if stored is not None:
            written = dtype_from_name(dtype or load.dtype)
            each = stored.bytes_each if written is None else written.itemsize
            return stored.values * each
    return 0.0


def _header(shard: Path) -> dict[str, _Stored]:
    """The tensors of a safetensors file; empty if it is something else."""
    try:
        with safe_open(shard, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: _Stored(
                    math.prod(part.get_shape()), _BITS.get(part.get_dtype(), 8) / 8
                )
                for name, part in slices.items()
            }
    except (OSError, SafetensorError):
        return {}


def _loads(task: Task[Any]) -> Iterator[LoadTensor]:
    if isinstance(task, LoadTensor):
        yield task
    else:
        for argument in task.arguments().values():
            yield from _loads(argument)
