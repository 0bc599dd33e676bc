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
merge_one_tensor(TaskVectors.of(None, tau), [0.1, 0.1], [1.0, 1.0])
"""


@pytest.mark.slow
def test_compiling_is_announced_once(tmp_path: Path) -> None:
    """One line on standard error, which names the folder; the second run is silent."""
    first, second = (
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _MERGE],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            check=True,
            capture_output=True,
            text=True,
        )
        for _ in range(2)
    )
    (line,) = first.stderr.splitlines()
    assert line.startswith("mergekit-pcb: compiling loops for this processor")
    assert str(tmp_path) in line
    assert list(tmp_path.rglob("*.nbc"))
    assert second.stderr == ""


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
