"""What merges of models too large for this machine would take: computed, not measured.

The time of a merge is that of imports, a time for each parameter, and the time in which
the disk reads and writes what no memory holds. The first two come from the benchmark of
whole merges, the third from the speed of the disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.merge_runs import Usage

SIZES = {"7B": 7e9, "70B": 70e9}
_BYTES = 2  # of a parameter in bfloat16
# How often a method reads the fine-tunes, and whether it reads the base.
_PASSES = {"pcb-model": 4}
_WITHOUT_BASE = {"linear"}
_PROBE, _CHUNK = 1 << 30, 1 << 23


class DiskSpeed(NamedTuple):
    """Bytes a second, of one large file."""

    read: float
    written: float


def disk_speed(folder: Path) -> DiskSpeed:
    """Write a file to the disk of a folder, and read it from there, not from memory."""
    chunk = os.urandom(_CHUNK)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(_PROBE // _CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - start
        # The system forgets what it has in memory of the file.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        start = time.perf_counter()
        while file.read(_CHUNK):
            pass
        return DiskSpeed(_PROBE / (time.perf_counter() - start), _PROBE / written)


def seconds(
    method: str,
    size: float,
    models: int,
    speed: DiskSpeed,
    *,
    imports: float,
    each: float,
) -> float:
    """Seconds of one merge.

    Args:
        method: a row of the table.
        size: parameters of a model.
        models: fine-tunes.
        speed: of the disk.
        imports: seconds that every run takes before it does anything.
        each: seconds for each parameter, with all files in memory.
    """
    inputs = models + (method not in _WITHOUT_BASE)
    read = _PASSES.get(method, 1) * inputs * size * _BYTES / speed.read
    return imports + each * size + read + size * _BYTES / speed.written


def lines(
    runs: Mapping[str, Usage], parameters: float, models: int, speed: DiskSpeed
) -> list[str]:
    """A table of methods and sizes, and what it rests on.

    Args:
        runs: the median of each method, and of `imports`.
        parameters: of the models that were merged.
        models: fine-tunes.
        speed: of the disk.
    """
    imports = runs["imports"].seconds
    if min(u.seconds for m, u in runs.items() if m != "imports") <= imports:
        return ["The models are too small to tell what larger ones would take."]
    heading = (
        f"Computed, not measured: {models} fine-tunes of {' and '.join(SIZES)}, from "
        "the times above for each parameter and a disk that reads "
        f"{speed.read / 1e6:.0f} MB a second and writes {speed.written / 1e6:.0f}, as "
        "measured here."
    )
    text = [
        heading,
        "",
        "| method | " + " | ".join(SIZES) + " |",
        "| --- |" + " ---: |" * len(SIZES),
    ]
    for method, usage in runs.items():
        if method == "imports":
            continue
        each = (usage.seconds - imports) / parameters
        minutes = [
            seconds(method, size, models, speed, imports=imports, each=each) / 60
            for size in SIZES.values()
        ]
        text.append(f"| `{method}` | {' | '.join(f'{m:.1f} min' for m in minutes)} |")
    return text
