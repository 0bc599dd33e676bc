"""The first compilation is announced once and kept where the user says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from numba.core import event

from mergekit_pcb.kernel import numba_compile, numba_loops

_MERGE = """
import torch
from mergekit_pcb.kernel.merge import merge_one_tensor
from mergekit_pcb.kernel.task_vectors import TaskVectors
tau = [torch.linspace(-1, 2, 100), torch.linspace(3, -1, 100)]
merge_one_tensor(TaskVectors.of(torch.zeros(100), tau), [0.1, 0.1], [1.0, 1.0])
"""


def messages_of_a_merge(cache: Path, before: str = "") -> list[str]:
    """What a process with this cache says on standard error, while it merges."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", before + _MERGE],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr.splitlines()


@pytest.mark.slow
def test_compiling_is_announced_once(tmp_path: Path) -> None:
    """One line on standard error, which names the folder; the second run is silent."""
    (line,) = messages_of_a_merge(tmp_path)
    assert line.startswith("mergekit-pcb: compiling loops for this processor")
    assert str(tmp_path) in line
    assert list(tmp_path.rglob("*.nbc"))
    assert messages_of_a_merge(tmp_path) == []


def truncated(files: list[Path]) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[:-50])


def exchanged(files: list[Path]) -> None:
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)


def made_folders(files: list[Path]) -> None:
    for file in files:
        file.unlink()
        (file / "x").mkdir(parents=True)


@pytest.mark.slow
def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    """One warning, no error, and the next process finds a cache that is whole."""
    messages_of_a_merge(tmp_path)
    damages = (("nbi", truncated), ("nbc", truncated), ("nbc", exchanged))
    for ending, damage in damages:
        files = sorted(tmp_path.rglob(f"*.{ending}"))
        assert len(files) > 1
        damage(files)
        first, second = messages_of_a_merge(tmp_path)
        assert first.startswith(f"mergekit-pcb: warning: compiled loops in {tmp_path}")
        assert first.endswith("they are compiled again")
        assert second.startswith("mergekit-pcb: compiling loops")
        assert messages_of_a_merge(tmp_path) == [], (ending, damage.__name__)
    made_folders(sorted(tmp_path.rglob("*.nbi")))
    read, _, written = messages_of_a_merge(tmp_path)
    assert "cannot be read (Is a directory)" in read
    assert "cannot be written (Is a directory)" in written


_FULL = """
from numba.core.caching import IndexDataCacheFile
def full(*arguments):
    raise OSError(28, "No space left on device")
IndexDataCacheFile._open_for_write = full
"""


@pytest.mark.slow
def test_a_full_disk_stops_no_merge(tmp_path: Path) -> None:
    """The loops are compiled for this process only, and a warning says why."""
    announced, warned = messages_of_a_merge(tmp_path, _FULL)
    assert announced.startswith("mergekit-pcb: compiling loops")
    assert "cannot be written (No space left on device)" in warned


@pytest.mark.slow
def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    """Another folder is taken, or none."""
    (tmp_path / "cache").write_text("")
    assert not [x for x in messages_of_a_merge(tmp_path / "cache") if "warning" in x]


def test_compilations_of_others_are_not_announced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Other packages of the same process use numba, too."""

    @numba.njit
    def other(x: float) -> float:
        return x + 1

    assert other(1.0) == 2
    assert capsys.readouterr().err == ""


def test_numba_still_tells_of_compilations(capsys: pytest.CaptureFixture[str]) -> None:
    """The event, its data, and the folder of the cache are where they were."""
    announcement = numba_compile._Announcement()
    data = {"dispatcher": numba_loops.merge}
    with event.install_listener("numba:compile", announcement):
        for _ in range(2):
            with event.trigger_event("numba:compile", data=data):
                pass
    folder = numba_loops.merge.stats.cache_path
    assert Path(folder).is_dir()
    # The announcement of the package itself may speak up as well, if nothing has been
    # compiled in this process.
    lines = set(capsys.readouterr().err.splitlines())
    said = "mergekit-pcb: compiling loops for this processor, which takes a moment"
    assert lines == {f"{said} (kept in {folder})"}
