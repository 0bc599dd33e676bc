"""Small files: written whole or not at all, and read if they are files and small."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mergekit_pcb.errors import PCBError


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


def read_small_file(path: Path, most: int) -> bytes:
    """Read a file that should be small; a pipe or a device is not waited for.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        PCBError: it is no file, too large, or cannot be read.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PCBError(f"{path} is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise PCBError(f"{path} is a pipe or a device, not a file")
        if status.st_size > most:
            raise PCBError(
                f"{path} has {status.st_size / 1e6:,.0f} MB, more than the "
                f"{most / 1e6:,.0f} MB that such a file can have: is it the right one?"
            )
        return path.read_bytes()
    except OSError as error:
        raise PCBError(f"{path}: {error.strerror}") from error
