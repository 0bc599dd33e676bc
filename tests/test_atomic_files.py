"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from mergekit_pcb.atomic_files import unfinished_folder, write_file


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    """Text is UTF-8, its line ends stay, and missing folders are made."""
    write_file(tmp_path / "new" / "text.txt", "größer\n")
    write_file(tmp_path / "new" / "bytes.bin", b"\x00\xff")
    found = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert found == {"text.txt": b"gr\xc3\xb6\xc3\x9fer\n", "bytes.bin": b"\x00\xff"}


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
    ids=["disk full", "interrupted"],
)
@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_write_leaves_what_was_there(
    error: BaseException, existed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part of the new file stays, under its own name or another."""

    def fill_the_disk(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:3])
        raise error

    path = tmp_path / "report.md"
    if existed:
        path.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(type(error)):
        write_file(path, "a new report")
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"] * existed
    assert not existed or path.read_text() == "old"


def test_a_failed_replacement_leaves_no_temporary_file(tmp_path: Path) -> None:
    """A folder in the way of the file is an error, and stays as it is."""
    (tmp_path / "report.md" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match=r"report\.md"):
        write_file(tmp_path / "report.md", "text")
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    """With the mode that it had."""
    real, link = tmp_path / "real.yml", tmp_path / "link.yml"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    write_file(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o600


def test_what_was_left_is_found_whatever_the_name(tmp_path: Path) -> None:
    """A name is no pattern."""
    left = tmp_path / ".run[1].unfinished-x"
    left.mkdir()
    os.utime(left, (0, 0))
    with unfinished_folder(tmp_path, ".run[1].unfinished-"):
        assert not left.exists()


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    """What is no file is written to, not replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, "text")
    assert os.read(reader, 9) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


def test_links_in_a_circle_are_an_error_of_the_system(tmp_path: Path) -> None:
    """On every version of Python."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        write_file(tmp_path / "loop", "text")


def test_names_that_are_no_text_do_not_stop_a_report(tmp_path: Path) -> None:
    """Python reads them with surrogates, which UTF-8 has no bytes for."""
    write_file(tmp_path / "a.json", '{"name": "\udcff"}')
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "\udcff"}
