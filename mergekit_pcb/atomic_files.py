"""Files and folders that are whole or absent; small files that are read safely."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mergekit_pcb.errors import PCBError

# Seconds that a process may take from making a folder to locking it.
_STARTING = 60


@contextmanager
def unfinished_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Give a new folder that is removed at the end, whatever ends the work.

    What a killed process left is removed by the next one with the same prefix.

    Args:
        parent: exists; where the folder is made, so that what is in it can be moved to
            other places there without copying.
        prefix: of its name.
    """
    for other in parent.glob(f"{glob.escape(prefix)}*"):
        _remove_if_abandoned(other)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        # Held as long as this process lives.
        with FileLock(_lock_file(folder)):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock_file(folder: Path) -> Path:
    return folder / ".lock"


def _remove_if_abandoned(folder: Path) -> None:
    try:
        starting = time.time() - folder.stat().st_mtime < _STARTING
        if starting and not _lock_file(folder).exists():
            return
        with FileLock(_lock_file(folder), blocking=False):
            shutil.rmtree(folder, ignore_errors=True)
    except (Timeout, OSError):  # in use, or not ours to remove
        return


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, and its folder if need be; what fails leaves the old file.

    Args:
        path: is replaced if it exists, and keeps its mode; of a link its target is.
        content: text is encoded as UTF-8.

    Raises:
        OSError: the disk is full, or the folder may not be written to.
    """
    data = content
    if isinstance(data, str):
        # Names of files may hold what is no text.
        data = data.encode("utf-8", "backslashreplace")
    # Not Path.resolve, which tells of links in a circle before Python 3.13 only.
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(data)  # a pipe or a device stays one
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        if path.exists():
            shutil.copymode(path, unfinished)
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
