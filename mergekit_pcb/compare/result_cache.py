"""A cache of results: one file each, named after a hash of all it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference

from mergekit_pcb import __version__
from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.recipes.models import local_folders, located

_PACKAGES = ("mergekit", "torch", "transformers")
# Of the readable part of a file's name: systems take 255 bytes in all, and a
# character may have 4.
_MOST_CHARACTERS = 50


def load(file: Path) -> dict[str, Any] | None:
    """A result, or None if there is none that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def save(file: Path, content: Mapping[str, Any]) -> None:
    """Keep a result."""
    write_file(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def key_of(name: str, about: Any) -> str:
    """A file name for what is called ``name`` and depends on ``about``."""
    text = json.dumps(about, sort_keys=True, default=str)
    readable = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{readable[:_MOST_CHARACTERS]}-{digest}"


@cache
def versions() -> dict[str, str]:
    """The versions that a merge or a score may depend on."""
    others = {name: metadata.version(name) for name in _PACKAGES}
    return {"mergekit-pcb": __version__, **others}


def identity_of(model: ModelReference | str) -> list[Any]:
    """What tells a model from others, and from itself before it was changed."""
    place = located(model)
    return [str(place), [fingerprint(folder) for folder in local_folders(place)]]


def fingerprint(folder: Path) -> list[Any]:
    """Names, sizes and times of all files: hashing gigabytes would take too long.

    Hidden files, such as those of git or of a download, are left out.
    """
    found = []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        unrelated = any(p.startswith(".") or p == "__pycache__" for p in inside.parts)
        if unrelated or not file.is_file():
            continue
        status = file.stat()
        # Copying tools set the time of modification back, but not that of change.
        times = [status.st_mtime_ns, status.st_ctime_ns]
        found.append([inside.as_posix(), status.st_size, *times])
    return found
