"""Numbers in files that are mapped into memory.

The operating system keeps in memory what is used and there is room for, so a model
that is larger than the memory is slower, and no error.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

_FLOAT32 = 4
# Whole lines of the processor's cache.
_ALIGNED = 64


class GrowingFile:
    """A file that arrays are appended to, and that is then mapped into memory.

    What is mapped may be appended to no more.
    """

    def __init__(self, file: Path) -> None:
        """Begin an empty file.

        Args:
            file: its owner removes it.
        """
        self._file = file
        self._stream = file.open("wb")
        self._end = 0
        self._lock = threading.Lock()

    def append(self, array: Any) -> int:
        """Write a contiguous array; the bytes before it.

        Raises:
            OSError: the disk is full.
        """
        with self._lock:
            start = self._end
            self._end += -(-array.nbytes // _ALIGNED) * _ALIGNED
            self._stream.write(array.data)
            self._stream.write(bytes(self._end - start - array.nbytes))
            return start

    def mapped(self) -> Any:
        """All bytes, as a uint8 array; writing to it does not write to the file."""
        self._stream.close()
        if not self._end:
            return np.empty(0, dtype=np.uint8)
        return np.asarray(np.memmap(self._file, dtype=np.uint8, mode="c"))


def mapped(file: Path, count: int) -> torch.Tensor:
    """So many float32 numbers in a file, which is made unless it is there.

    Raises:
        OSError: the disk is full.
    """
    if not file.exists() and hasattr(os, "posix_fallocate"):
        # A full disk is an error here; when mapped memory is written, it is a signal.
        try:
            with file.open("wb") as new:
                os.posix_fallocate(new.fileno(), 0, count * _FLOAT32)
        except OSError:
            file.unlink()
            raise
    return torch.from_file(str(file), shared=True, size=count, dtype=torch.float32)
