"""Whether output can go where the user wants it, before long work begins."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.text import size


def require_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output folder that shares files with an input.

    Args:
        out: the output folder; it need not exist yet.
        inputs: folders and files that are read; those that do not exist are ignored.

    Raises:
        PCBError: one is the other, or lies in it.
    """
    target = out.resolve()
    for path in inputs:
        source = path.resolve()
        if not source.exists():
            continue
        if source == target:
            relation = "is a model of the recipe"
        elif source in target.parents:
            relation = f"lies in the model {path}"
        elif target in source.parents:
            relation = f"holds the model {path}"
        else:
            continue
        raise PCBError(f"{out} {relation}: choose another output folder")


def require_room(folder: Path, needed: float, what: str) -> None:
    """Refuse work whose result would fill the disk.

    Args:
        folder: where it goes; it need not exist yet.
        needed: about how many bytes it has.
        what: it is, in the plural: "3 merged models".

    Raises:
        PCBError: there is too little room.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise PCBError(
            f"{folder} has {size(free)} free, and {what} need about {size(needed)}: "
            "make room, or choose another folder"
        )
