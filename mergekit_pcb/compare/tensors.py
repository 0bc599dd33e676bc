"""The tensors of a checkpoint, known without reading its weights."""

from __future__ import annotations

from pathlib import Path

from mergekit.architecture import WeightInfo, arch_info_for_config
from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.common import ModelPath, ModelReference
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import (
    StoredTensor,
    file_problem,
    stored_tensors,
)


def tensors_of(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a model folder; index entries without a tensor are left out.

    Raises:
        PCBError: names the file that is missing or damaged.
    """
    index = ShardedTensorIndex.from_disk(str(folder))
    found: dict[str, StoredTensor] = {}
    for shard in index.shards:
        path = Path(index.base_path, shard.filename)
        if problem := file_problem(path):
            raise PCBError(problem)
        tensors = stored_tensors(path) or {}
        found |= {
            name: tensors[name] for name in shard.contained_keys if name in tensors
        }
    return found


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
