"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, and its folder if need be; what fails leaves the old file.

    Args:
        path: is replaced if it exists.
        content: text is encoded as UTF-8.

    Raises:
        OSError: the disk is full, or the folder may not be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        unfinished.write_bytes(
            content.encode("utf-8") if isinstance(content, str) else content
        )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
