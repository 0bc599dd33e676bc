"""How large merged models are, before the first is written."""

from __future__ import annotations

import math
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from mergekit.common import ModelReference, dtype_from_name

from mergekit_pcb.compare.tensors import architecture_weights, tensors_of
from mergekit_pcb.plugin.checkpoint_files import checkpoint_problem
from mergekit_pcb.recipes.models import reference


def merged_size(
    base: ModelReference | str, dtype: str | None, cache: str | None = None
) -> int:
    """About how many bytes a merge has.

    Args:
        base: the base model.
        dtype: what merges are written in, if the recipe says so.
        cache: the folder for models of the hub, if not the usual one.

    Returns:
        0 if the base has not been downloaded, or not all of it.

    Raises:
        PCBError: the base's weights are damaged.
    """
    folder = _folder(reference(base), cache)
    if folder is None:
        return 0
    written = dtype_from_name(dtype)
    tensors = tensors_of(folder)
    weights = architecture_weights(folder)
    if weights is not None:
        names = {name for w in weights for name in (w.name, *(w.aliases or ()))}
        tensors = {name: size for name, size in tensors.items() if name in names}
    return sum(
        math.prod(stored.shape) * written.itemsize if written else stored.size
        for stored in tensors.values()
    )


def _folder(model: ModelReference, cache: str | None) -> Path | None:
    path = model.model
    if Path(path.path).is_dir():
        return Path(path.path)
    try:
        found = snapshot_download(
            path.path, revision=path.revision, cache_dir=cache, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return None if checkpoint_problem(Path(found)) else Path(found)
