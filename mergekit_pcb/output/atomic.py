"""An output folder that is complete or absent."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergekit_pcb.errors import PCBError


@contextmanager
def complete_or_absent(out_path: Path) -> Iterator[Path]:
    """Give a path to write to, whose content becomes ``out_path`` if all went well.

    The path has the last component of ``out_path``, because mergekit names the model
    after it, and lies in a hidden folder beside ``out_path``, so that it can be moved
    without copying. On any exception, Ctrl-C included, the hidden folder is removed.
    Files of an existing ``out_path`` stay unless the new content has the same names.

    Raises:
        PCBError: ``out_path`` is a file.
    """
    name = out_path.absolute().name
    target = out_path.resolve()
    if target.exists() and not target.is_dir():
        raise PCBError(f"{out_path} is a file; the output must be a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{name}.unfinished-", dir=target.parent))
    try:
        yield hidden / name
        # mergekit completes some architectures into a second folder beside the first,
        # which it then removes.
        for written in sorted(hidden.iterdir()):
            _move(
                written,
                target if written.name == name else target.parent / written.name,
            )
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    if not source.is_dir() or not target.exists():
        source.replace(target)
        return
    for entry in sorted(source.iterdir()):
        _move(entry, target / entry.name)
