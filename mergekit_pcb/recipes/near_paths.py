"""Files and folders that a path which leads nowhere was probably meant to name."""

from __future__ import annotations

from pathlib import Path

from mergekit_pcb.recipes.models import with_home
from mergekit_pcb.suggestions import misspelt


def near_paths(path: str, *, files: bool = False) -> list[str]:
    """What stands beside a path that does not exist, with nearly the same name.

    Args:
        path: as in a recipe; a leading ``~`` is read as the home folder.
        files: look for files, not for folders.

    Returns:
        At most two paths, the nearest first, each begun as ``path`` is.
    """
    parent = with_home(path).parent
    try:
        names = [
            entry.name
            for entry in sorted(parent.iterdir())
            if (entry.is_file() if files else entry.is_dir())
        ]
    except OSError:
        return []
    begin = "./" if path.startswith("./") else ""
    return [f"{begin}{parent / name}" for name in misspelt(Path(path).name, names)]
