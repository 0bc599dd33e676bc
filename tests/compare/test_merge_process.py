"""Merges in processes of their own: interrupted, killed, one after the other."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import yaml
from mergekit.scripts import run_yaml

from mergekit_pcb.commands.merge import merge
from mergekit_pcb.compare import merge_process
from mergekit_pcb.compare.merge_process import merge_here, merge_server
from mergekit_pcb.errors import PCBError
from tests import tiny


@pytest.mark.slow
def test_a_merge_that_is_interrupted_leaves_nothing(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the process of the merge, which tidies up after itself."""

    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt

    out = tmp_path / "merged" / "m"
    with merge_server({}) as server:
        with pytest.raises(KeyboardInterrupt), redirect_stdout(Interrupting()):
            server(family, out)
        assert list(out.parent.glob("*")) == []
        # As if the interruption came when the merge had just been done.
        ask = server._ask

        def late(request: Any) -> Any:
            assert ask(request)["cost"]
            assert out.exists()
            raise KeyboardInterrupt

        monkeypatch.setattr(server, "_ask", late)
        with pytest.raises(KeyboardInterrupt):
            server(family, out)
        assert list(out.parent.glob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("forks", [True, False])
def test_merges_one_after_the_other(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, forks: bool
) -> None:
    """Same bits as in this process; a failure between harms nothing; memory is known.

    Where processes cannot be copied, each merge has a fresh one.
    """
    if forks and not merge_process._FORKS:
        pytest.skip("this system cannot fork: covered by the other case")
    monkeypatch.setattr(merge_process, "_FORKS", forks)
    document = yaml.safe_load(family.read_text())
    wrong = tiny.write_recipe(document | {"merge_method": "slerp"}, tmp_path / "w.yml")
    merge_here(family, tmp_path / "here", {})
    with merge_server({}) as server:
        if forks:
            with pytest.raises(PCBError, match="`slerp` needs `t`"):
                server(wrong, tmp_path / "wrong")
            killing = redirect_stdout(KillingMerges(server))
            with pytest.raises(PCBError, match="ended by SIGKILL"), killing:
                server(family, tmp_path / "wrong")
            # Somebody ends the server itself, between two merges.
            assert server._process is not None
            server._process.kill()
            server._process.wait()
        cost = server(family, tmp_path / "right")
    found, expected = (tmp_path / "right", tmp_path / "here")
    for file in ("model.safetensors", "config.json"):
        assert (found / file).read_bytes() == (expected / file).read_bytes()
    assert not (tmp_path / "wrong").exists()
    assert cost.peak_bytes is not None
    assert cost.peak_bytes > 10**8


def test_the_server_imports_before_it_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every merge would wait for mergekit and torch again."""
    imported: list[str] = []
    monkeypatch.setattr(merge_process.importlib, "import_module", imported.append)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    merge_process._serve(forks=True)
    assert merge.callback.__module__ in imported


class KillingMerges(io.StringIO):
    """Kills the merge whose output is written here."""

    def __init__(self, server: merge_process.MergeServer) -> None:
        super().__init__()
        self.server = server

    def write(self, text: str) -> int:
        assert self.server._process is not None
        pid = self.server._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        return len(text)


KILLED = """
import os, signal, sys
from pathlib import Path
from mergekit_pcb.commands.merge import merge
from mergekit_pcb.compare import merge_process

class Killed:
    def write(self, text):
        print(server._process.pid, file=sys.__stdout__, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

server = merge_process.MergeServer({})
sys.stdout = Killed()
server(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_merge_does_not_outlive_the_comparison(family: Path, tmp_path: Path) -> None:
    """After SIGKILL of the parent, its merge ends and leaves no model."""
    out = tmp_path / "merged" / "m"
    out.parent.mkdir()
    found = subprocess.run(
        [sys.executable, "-c", KILLED, family, out], stdout=subprocess.PIPE, text=True
    )
    assert found.returncode == -signal.SIGKILL
    child = int(found.stdout)
    for _ in range(600):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        sleep(0.1)
    else:
        pytest.fail("the merge goes on")
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"failed": "one", "status": 0, "last": "two"}, "one"),
        ({"status": 1, "last": "last words"}, "last words"),
        ({"status": 3, "last": ""}, "the merge ended with status 3"),
        (
            {"status": -9, "last": "x"},
            "the merge was ended by SIGKILL (out of memory?)",
        ),
    ],
)
def test_the_reason_of_a_failed_merge(told: dict[str, Any], reason: str) -> None:
    """What its process tells, or how it ended, or else its last line."""
    assert merge_process._reason(told) == reason


def test_ctrl_c_in_a_merge_in_this_process_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the comparison, and is not the reason of a row without scores."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_yaml, "run_merge", interrupted)
    recipe = tiny.recipe_of("org/base", ["org/a"])
    file = tiny.write_recipe(recipe, tmp_path / "recipe.yml")
    with pytest.raises(KeyboardInterrupt):
        merge_here(file, tmp_path / "merged", {})
