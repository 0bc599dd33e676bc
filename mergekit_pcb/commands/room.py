"""Whether there is room for a merge, by the headers of its inputs, before it begins."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit.common import dtype_from_name
from mergekit.graph import Task
from mergekit.io.tasks import LoaderCache
from mergekit.plan import MergePlanner

from mergekit_pcb.output.places import require_room
from mergekit_pcb.plugin.checkpoint_files import StoredTensor, stored_tensors
from mergekit_pcb.plugin.input_tensors import loading_tasks


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
        planner: has planned. Tensors of which no file says the size are not counted.
    """
    tensors_in = functools.cache(_tensors_in)
    out_dtype = planner.config.out_dtype
    return sum(
        _size(task, weight.force_dtype or out_dtype, tensors_in)
        for weight, task in planner._tensors
    )


def _size(
    task: Task[Any],
    dtype: str | None,
    tensors_in: Callable[[Path], Mapping[str, StoredTensor]],
) -> float:
    """The size of the first input of a tensor that is there, in the output's dtype."""
    for load in loading_tasks(task):
        loader = LoaderCache().get(load.model)
        name = load._resolve_name(loader)
        if name is None:
            continue
        shard = Path(loader.index.base_path, loader.index.tensor_paths[name])
        stored = tensors_in(shard).get(name)
        if stored is not None:
            written = dtype_from_name(dtype or load.dtype)
            if written is None:
                return stored.size
            return math.prod(stored.shape) * written.itemsize
    return 0.0


def _tensors_in(shard: Path) -> Mapping[str, StoredTensor]:
    """The tensors of a file; none if it is damaged, which is reported elsewhere."""
    try:
        return stored_tensors(shard) or {}
    except (OSError, ValueError):
        return {}
