"""What is read as a recipe, and what is refused before it is read."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes.reading import MOST_BYTES, recipe_text


def test_a_recipe_is_utf8_text(tmp_path: Path) -> None:
    """Text comes back as it is in the file."""
    file = tmp_path / "r.yml"
    file.write_text("a: ü\n", encoding="utf-8")
    assert recipe_text(file) == "a: ü\n"
    file.write_bytes(b"a: \xff\n")
    with pytest.raises(PCBError, match=r"r\.yml is not UTF-8 text: save it as UTF-8"):
        recipe_text(file)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("pipe", "is a pipe or a device"),
        ("folder", "is a folder"),
        ("large", "more than the 2 MB"),
        ("absent", "No such file"),
        ("/dev/zero", "is a pipe or a device"),
    ],
)
def test_what_is_no_small_file_is_refused(
    name: str, problem: str, tmp_path: Path
) -> None:
    """It is neither waited for nor read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(PCBError, match=problem):
        recipe_text(tmp_path / name)


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream has no size before it is read."""
    stream = io.BytesIO(b"x" * (MOST_BYTES + 1))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    with pytest.raises(PCBError, match="standard input has more than 2 MB"):
        recipe_text("-")
