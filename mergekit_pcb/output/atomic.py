"""An output folder that is complete or absent."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from mergekit_pcb.atomic_files import unfinished_folder
from mergekit_pcb.errors import PCBError

# What transformers and mergekit load as the weights of a model, in one file or several.
_WEIGHTS = re.compile(
    r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
)


@contextmanager
def complete_or_absent(out_path: Path) -> Iterator[Path]:
    """Give a path to write to, whose content becomes ``out_path`` if all went well.

    The path has the last component of ``out_path``, because mergekit names the model
    after it, and lies in a hidden folder beside ``out_path``, so that it can be moved
    without copying. On any exception, Ctrl-C included, the hidden folder is removed;
    what a killed process left is removed by the next one with the same ``out_path``.
    Files of an existing ``out_path`` stay unless the new content has the same names;
    if it has weights, the weight files there before are removed.

    Raises:
        PCBError: ``out_path`` is no folder, or there is no room for it.
    """
    name = out_path.absolute().name
    # Not Path.resolve, which raises for links in a circle before Python 3.13 only.
    target = Path(os.path.realpath(out_path))
    if os.path.lexists(target) and not target.is_dir():
        raise PCBError(f"{out_path} is no folder; the output must be one")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _publishing():  # what fails should fail before the work
            pass
        with unfinished_folder(target.parent, f".{name}.unfinished-") as hidden:
            yield hidden / name
            # mergekit completes some architectures into a second folder beside the
            # first, which it then removes.
            with _publishing():
                for written in sorted(hidden.iterdir()):
                    if written.is_dir():
                        own = written.name == name
                        place = target if own else target.parent / written.name
                        _publish(written, place)
    except PCBError:  # says itself which file it is about
        raise
    except Exception as error:
        # Neither safetensors nor a write says where, or it says the hidden folder.
        if _is_full(error):
            raise PCBError(f"{out_path}: {os.strerror(errno.ENOSPC)}") from error
        raise


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return os.strerror(errno.ENOSPC) in str(error)


def _publishing() -> FileLock:
    """Held by one process of this user at a time.

    The file belongs to the user, because others may not open it.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return FileLock(Path(tempfile.gettempdir()) / f"mergekit-pcb-{user}.lock")


def _publish(source: Path, target: Path) -> None:
    """Move a folder into place; its files replace those there before, or none do."""
    if not target.exists():
        source.replace(target)
        return
    replaced = source.with_name(f"{source.name}.replaced")
    moved: list[tuple[Path, Path]] = []

    def move(file: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        moved.append((file, place))
        file.replace(place)

    stale = _weight_files(target) if _weight_files(source) else []
    new = [file for file in sorted(source.rglob("*")) if not file.is_dir()]
    try:
        for file in stale:
            move(file, replaced / file.name)
        for file in new:
            within = file.relative_to(source)
            if (target / within).is_file():
                move(target / within, replaced / within)
            move(file, target / within)
    except BaseException:
        for file, place in reversed(moved):
            if os.path.lexists(place) and not os.path.lexists(file):
                with suppress(OSError):  # the others can still come back
                    place.replace(file)
        raise


def _weight_files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if _WEIGHTS.fullmatch(file.name)]
