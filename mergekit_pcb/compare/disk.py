"""Whether the disk has room for merged models, before the first is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from mergekit.common import ModelReference, dtype_from_name
from safetensors import safe_open

from mergekit_pcb.errors import PCBError

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def require_room(folder: Path, base: str, dtype: str | None, models: int) -> None:
    """Refuse a comparison that would fill the disk.

    Args:
        folder: where merged models go; it need not exist yet.
        base: the base model, from whose size theirs is estimated; one that has not been
            downloaded is not checked.
        dtype: what they are written in, if the recipe says so.
        models: how many there will be at a time.

    Raises:
        PCBError: there is too little.
    """
    needed = models * merged_size(base, dtype)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    # What else comes with a model: a tokenizer, a card, the reports.
    if needed and free < needed * 1.02 + 50e6:
        count = f"{models} merged model{'s' * (models > 1)}"
        raise PCBError(
            f"{folder} has {free / 1e9:.1f} GB free, and {count} at a time need "
            f"{needed / 1e9:.1f} GB: make room, choose another --out, or keep fewer "
            "(--keep none)"
        )


def merged_size(base: str, dtype: str | None) -> int:
    """About how many bytes a merge has, or 0 if the base is not on this machine."""
    folder = _folder(base)
    if folder is None:
        return 0
    tensors = list(folder.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in tensors or folder.glob("*.bin"))
    written = dtype_from_name(dtype)
    if not tensors or written is None:
        return size
    with safe_open(tensors[0], "pt") as opened:
        names = list(opened.keys())
        stored = _BYTES.get(opened.get_slice(names[0]).get_dtype()) if names else None
    return size * written.itemsize // stored if stored else size


def _folder(model: str) -> Path | None:
    path = ModelReference.parse(model).model
    if Path(path.path).is_dir():
        return Path(path.path)
    try:
        found = snapshot_download(
            path.path, revision=path.revision, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)
