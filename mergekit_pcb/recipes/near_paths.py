"""Files and folders that a path which leads nowhere was probably meant to name."""

from __future__ import annotations

from pathlib import Path

from mergekit_pcb.recipes.models import with_home
from mergekit_pcb.suggestions import misspelt


def near_paths(path: str, *, files: bool = False) -> list[str]:
    """Paths that differ from one that does not exist by a few letters of one name.

    Args:
        path: as in a recipe; a leading ``~`` is read as the home folder.
        files: look for files, not for folders.

    Returns:
        At most two paths, the nearest first, each begun as ``path`` is.
    """
    begin = "./" if path.startswith("./") else ""
    return [f"{begin}{found}" for found in _near(with_home(path), files=files)]


def _near(path: Path, *, files: bool) -> list[Path]:
    parent = path.parent
    if not parent.is_dir():
        if parent == parent.parent:
            return []
        others = _near(parent, files=False)
        return [o / path.name for o in others if _is_there(o / path.name, files=files)]
    try:
        entries = [e for e in sorted(parent.iterdir()) if _is_there(e, files=files)]
    except OSError:
        return []
    return [parent / name for name in misspelt(path.name, [e.name for e in entries])]


def _is_there(path: Path, *, files: bool) -> bool:
    return path.is_file() if files else path.is_dir()
