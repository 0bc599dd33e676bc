"""The configuration of a model in a folder, read before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mergekit_pcb.atomic_files import read_small_file
from mergekit_pcb.errors import PCBError

_MOST_BYTES = 50_000_000


def config_of(folder: Path) -> dict[str, Any] | None:
    """What ``config.json`` says; None if there is none.

    Raises:
        PCBError: it cannot be read, or is no JSON object.
    """
    file = folder / "config.json"
    if not file.exists():
        return None
    problem = f"{file} cannot be read as JSON: download it again"
    try:
        config = json.loads(read_small_file(file, _MOST_BYTES))
    except PCBError:
        raise
    except (ValueError, RecursionError) as error:
        raise PCBError(problem) from error
    if not isinstance(config, dict):
        raise PCBError(problem)
    return config
