"""Output folders that are complete or absent."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from mergekit_pcb.errors import PCBError
from mergekit_pcb.output import atomic
from mergekit_pcb.output.atomic import complete_or_absent


def test_the_output_cannot_be_a_file(tmp_path: Path) -> None:
    """A file in the way is found before any work is done."""
    (tmp_path / "merged").write_text("")
    with (
        pytest.raises(PCBError, match=r"merged is no folder"),
        complete_or_absent(tmp_path / "merged"),
    ):
        raise AssertionError("not reached")


def test_the_output_cannot_be_a_link_to_itself(tmp_path: Path) -> None:
    """Found before any work is done, on every version of Python."""
    (tmp_path / "merged").symlink_to(tmp_path / "merged")
    with (
        pytest.raises(PCBError, match="merged is no folder"),
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


STALE = [
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-00002-of-00002.bin",
    "pytorch_model.bin.index.json",
]
KEPT = ["tokenizer.json", "notes.md", "model.gguf", "training_args.bin"]


@pytest.mark.parametrize("written", ["model-00001-of-00001.safetensors", "config.json"])
def test_weights_of_another_merge_do_not_stay(written: str, tmp_path: Path) -> None:
    """New weights replace all weight files; what else is in the folder stays."""
    out = tmp_path / "merged"
    out.mkdir()
    for name in (*STALE, *KEPT):
        (out / name).write_text("old")
    with complete_or_absent(out) as unfinished:
        unfinished.mkdir()
        (unfinished / written).write_text("new")
    names = {path.name for path in out.iterdir()}
    expected = {written, *KEPT} | (set() if written != "config.json" else set(STALE))
    assert names == expected
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize("in_the_way", ["tokenizer", "zz"])
def test_old_files_come_back_if_new_ones_cannot_be_moved(
    in_the_way: str, tmp_path: Path
) -> None:
    """Never a folder of both, whichever file it is that cannot be moved."""
    out = tmp_path / "merged"
    (out / in_the_way).mkdir(parents=True)
    for name in (*STALE, "config.json"):
        (out / name).write_text("old")

    def write() -> None:
        with complete_or_absent(out) as unfinished:
            (unfinished / "code").mkdir(parents=True)
            new = ("config.json", "model.safetensors", "code/a.py", in_the_way)
            for name in new:
                (unfinished / name).write_text("new")

    with pytest.raises(IsADirectoryError):
        write()
    files = {path.name: path.read_text() for path in out.rglob("*") if path.is_file()}
    assert files == dict.fromkeys((*STALE, "config.json"), "old")
    assert (out / in_the_way).is_dir()


def test_files_in_folders_replace_those_there(tmp_path: Path) -> None:
    """File by file: what only the old folder had stays."""
    out = tmp_path / "merged"
    (out / "code").mkdir(parents=True)
    for name in ("a.py", "b.py"):
        (out / "code" / name).write_text("old")
    with complete_or_absent(out) as unfinished:
        (unfinished / "code").mkdir(parents=True)
        (unfinished / "code" / "a.py").write_text("new")
    code = {path.name: path.read_text() for path in (out / "code").iterdir()}
    assert code == {"a.py": "new", "b.py": "old"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded", "hidden"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
)
def test_a_full_disk_is_named_by_the_folder_that_the_user_knows(
    error: Exception, tmp_path: Path
) -> None:
    """Whoever says it, and nothing half-written stays."""
    out = tmp_path / "merged"

    def write() -> None:
        with complete_or_absent(out) as unfinished:
            unfinished.mkdir()
            (unfinished / "model.safetensors").write_text("half")
            raise error

    with pytest.raises(PCBError) as caught:
        write()
    assert caught.value.message == f"{out}: No space left on device"
    assert not list(tmp_path.iterdir())


_HANG = """
import sys, time
import subprocess
import sys
from pathlib import Path
from mergekit_pcb.output import atomic
from mergekit_pcb.output.atomic import complete_or_absent
with complete_or_absent(Path(sys.argv[1])) as unfinished:
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """And what a living one is still writing is not."""
    out = tmp_path / "merged"

    def hidden() -> list[Path]:
        return [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    process = subprocess.Popen(
        [sys.executable, "-c", _HANG, str(out)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with complete_or_absent(out) as unfinished:
            unfinished.mkdir()
        (alive,) = hidden()
        assert (alive / "merged" / "model.safetensors").read_text() == "half"
    finally:
        process.kill()
        process.wait()
    assert hidden() == [alive]
    with complete_or_absent(out) as unfinished:
        unfinished.mkdir()
    assert hidden() == []


def test_a_lock_that_cannot_be_had_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the end, when there is a model to lose; it is each user's own."""
    assert str(os.getuid()) in Path(atomic._publishing().lock_file).name
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no" / "folder" / "file"))
    (tmp_path / "no").write_text("")
    with pytest.raises(OSError, match="no"), complete_or_absent(tmp_path / "merged"):
        raise AssertionError("not reached")
