"""The files of a report in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.output.figures import Picture


def write_report(
    folder: Path,
    contents: Mapping[str, str],
    pictures: Sequence[Picture],
    names: Iterable[str],
) -> None:
    """Write files and pictures; pictures of an earlier report go.

    Args:
        folder: for all of them.
        contents: by name of the file.
        pictures: each goes into a PNG file of its name.
        names: of all pictures that there may be in such a report.
    """
    files: dict[str, str | bytes] = dict(contents)
    files |= {f"{picture.name}.png": picture.png() for picture in pictures}
    for stale in names:
        (folder / f"{stale}.png").unlink(missing_ok=True)
    for name, content in files.items():
        write_file(folder / name, content)
