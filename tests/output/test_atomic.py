"""Output folders that are complete or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.atomic import complete_or_absent


def test_the_output_cannot_be_a_file(tmp_path: Path) -> None:
    """A file in the way is found before any work is done."""
    (tmp_path / "merged").write_text("")
    with (
        pytest.raises(PCBError, match=r"merged is a file"),
        complete_or_absent(tmp_path / "merged"),
    ):
        raise AssertionError("not reached")


def test_the_output_may_be_a_link(tmp_path: Path) -> None:
    """A link to a folder stays a link, and the model is named after the link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "merged").symlink_to(tmp_path / "disk")
    with complete_or_absent(tmp_path / "merged") as unfinished:
        assert unfinished.name == "merged"
        unfinished.mkdir()
        (unfinished / "config.json").write_text("{}")
    assert (tmp_path / "merged").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["config.json"]


def test_a_second_folder_of_mergekit_comes_along(tmp_path: Path) -> None:
    """The folder that mergekit puts beside the first for some models is kept."""
    with complete_or_absent(tmp_path / "merged") as unfinished:
        (unfinished.parent / "donor--merged").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["donor--merged"]
