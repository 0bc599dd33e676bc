"""Numbers of all tensors of a model in a file that is mapped into memory.

The operating system keeps in memory what is used and there is room for, so a model
that is larger than the memory is slower, and no error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

_FLOAT32 = 4


class MappedVectors:
    """For each tensor some rows of float32 numbers, in a file of that size.

    float32, because a merge computes in it: a merge of these numbers has the bits of
    a real one, which bfloat16 would round twice.
    """

    def __init__(self, file: Path, sizes: Mapping[str, int], rows: int = 1) -> None:
        """Map the file, which is made unless it is there.

        Args:
            file: its owner removes it.
            sizes: coordinates of each tensor, by name.
            rows: of each tensor.
        """
        count = max(sum(sizes.values()) * rows, 1)
        numbers = mapped(file, count)
        self._of: dict[str, torch.Tensor] = {}
        start = 0
        for name, size in sizes.items():
            end = start + rows * size
            self._of[name] = numbers[start:end].view(rows, size)
            start = end

    def __getitem__(self, name: str) -> torch.Tensor:
        """The (rows, d) numbers of a tensor; writing to them writes the file."""
        return self._of[name]


def mapped(file: Path, count: int) -> torch.Tensor:
    """So many float32 numbers in a file, which is made unless it is there.

    Raises:
        OSError: the disk is full.
    """
    if not file.exists() and hasattr(os, "posix_fallocate"):
        # A full disk is an error here; when mapped memory is written, it is a signal.
        with file.open("wb") as new:
            os.posix_fallocate(new.fileno(), 0, count * _FLOAT32)
    return torch.from_file(str(file), shared=True, size=count, dtype=torch.float32)
