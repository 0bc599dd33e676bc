"""The tensors of a checkpoint, known without reading its weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mergekit.architecture import WeightInfo, arch_info_for_config
from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.common import ModelPath, ModelReference
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex
from safetensors import safe_open

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import file_problem

_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4}
_BYTES |= {"F16": 2, "BF16": 2, "I16": 2, "U16": 2}


class Stored(NamedTuple):
    """A tensor in a file: how many values it has, and bytes for each."""

    values: int
    item_size: int


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """The tensors of a model folder; index entries without a tensor are left out.

    Raises:
        PCBError: names the file that is missing or damaged.
    """
    index = ShardedTensorIndex.from_disk(str(folder))
    found: dict[str, Stored] = {}
    for shard in index.shards:
        path = Path(index.base_path, shard.filename)
        if problem := file_problem(path):
            raise PCBError(problem)
        tensors = _in_safetensors(path) if index.is_safetensors else _in_torch(path)
        listed = set(shard.contained_keys)
        found |= {name: stored for name, stored in tensors if name in listed}
    return found


def _in_safetensors(path: Path) -> Iterable[tuple[str, Stored]]:
    with safe_open(path, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no mapping
            piece = opened.get_slice(name)
            values = torch.Size(piece.get_shape()).numel()
            yield name, Stored(values, _BYTES.get(piece.get_dtype(), 1))


def _in_torch(path: Path) -> Iterable[tuple[str, Stored]]:
    loaded: Any = torch.load(path, map_location="meta", weights_only=True)
    tensors = loaded.get("state_dict", loaded)
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            yield name, Stored(tensor.numel(), tensor.element_size())


def architecture_weights(folder: Path) -> list[WeightInfo] | None:
    """The tensors that mergekit merges of a model, or None if it takes those it finds.

    Others, such as extra prediction heads, are in no merge.
    """
    model = ModelReference(model=ModelPath(path=str(folder)))
    try:
        config = model.config()
        architecture = arch_info_for_config(config)
    except (OSError, ValueError, RuntimeError, TypeError):  # a config of its own kind
        return None
    if architecture is None:
        return None
    return ConfiguredModelArchitecture(info=architecture, config=config).all_weights()
