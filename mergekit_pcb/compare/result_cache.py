"""A cache of results: one file each, named after a hash of all it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mergekit_pcb import __version__
from mergekit_pcb.atomic_files import write_file

_PACKAGES = ("mergekit", "torch", "transformers")


def load(file: Path) -> dict[str, Any] | None:
    """A result, or None if there is none."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def save(file: Path, content: Mapping[str, Any]) -> None:
    """Keep a result."""
    write_file(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def key_of(name: str, about: Any) -> str:
    """A file name for what is called ``name`` and depends on ``about``."""
    text = json.dumps(about, sort_keys=True, default=str)
    readable = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@cache
def versions() -> dict[str, str]:
    """The versions that a merge or a score may depend on."""
    others = {name: metadata.version(name) for name in _PACKAGES}
    return {"mergekit-pcb": __version__, **others}


def fingerprint(folder: Path) -> list[Any]:
    """Names, sizes and times of all files: hashing gigabytes would take too long."""
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    return [
        [str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
        if file.is_file() and "__pycache__" not in file.parts
    ]
