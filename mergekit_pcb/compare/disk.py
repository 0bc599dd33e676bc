"""Whether the disk has room for merged models, before the first is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from mergekit.common import ModelReference, dtype_from_name
from rich.filesize import decimal

from mergekit_pcb.compare.tensors import architecture_weights, stored_tensors
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes.models import reference


def require_room(
    folder: Path, base: ModelReference, dtype: str | None, models: int
) -> None:
    """Refuse a comparison that would fill the disk.

    Args:
        folder: where merged models go; it need not exist yet.
        base: the base model, from whose size theirs is estimated; one that has not been
            downloaded is not checked.
        dtype: what they are written in, if the recipe says so.
        models: how many there will be at a time.

    Raises:
        PCBError: there is too little, or the base's weights are damaged.
    """
    needed = models * merged_size(base, dtype)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    # What else comes with a model: a tokenizer, a card, the reports.
    reserve = 50_000_000
    if needed and free < needed * 1.02 + reserve:
        count = f"{models} model{'s' * (models > 1)}"
        raise PCBError(
            f"{folder} has {decimal(free)} free, and {count} at a time need "
            f"{decimal(needed)} and some {decimal(reserve)} for the rest: make room, "
            "choose another --out, or keep fewer (--keep none)"
        )


def merged_size(base: ModelReference | str, dtype: str | None) -> int:
    """About how many bytes a merge has, or 0 if the base is not on this machine."""
    folder = _folder(reference(base))
    if folder is None:
        return 0
    written = dtype_from_name(dtype)
    tensors = stored_tensors(folder)
    weights = architecture_weights(folder)
    if weights is not None:
        names = {name for w in weights for name in (w.name, *(w.aliases or ()))}
        tensors = {name: size for name, size in tensors.items() if name in names}
    return sum(
        stored.values * (written.itemsize if written else stored.item_size)
        for stored in tensors.values()
    )


def _folder(model: ModelReference) -> Path | None:
    path = model.model
    if Path(path.path).is_dir():
        return Path(path.path)
    try:
        found = snapshot_download(
            path.path, revision=path.revision, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)
