"""The text of a recipe file, which is a small file and UTF-8."""

from __future__ import annotations

import sys
from pathlib import Path

from mergekit_pcb.atomic_files import read_small_file
from mergekit_pcb.errors import PCBError

MOST_BYTES = 2_000_000
"""The largest recipe; those that people write are a thousand times smaller."""


def recipe_text(path: str | Path) -> str:
    """Read a recipe; ``-`` is the standard input.

    Raises:
        PCBError: it is a folder, a pipe or a device, larger than `MOST_BYTES`, not
            UTF-8 text, or cannot be read.
    """
    if str(path) == "-":
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise PCBError(
                f"the recipe on the standard input has more than "
                f"{MOST_BYTES / 1e6:,.0f} MB"
            )
    else:
        content = read_small_file(Path(path), MOST_BYTES)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PCBError(f"{path} is not UTF-8 text: save it as UTF-8") from error
