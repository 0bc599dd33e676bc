"""Merges in processes of their own, with the time and the memory that each took.

As a program, ``python -m mergekit_pcb.compare.merge_process fork`` is a server: it
imports what merges need, once, and forks for each recipe that it reads from standard
input. Where processes cannot be copied (Windows, and macOS, whose libraries do not
survive it), it is called with ``once``, merges one recipe itself, and ends.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.backends import numba_problem
from mergekit_pcb.plugin.lambda_record import LambdaSummary, tell

# What begins a line that is for this module and not for people.
_MARK = "\0"
# Seconds that a merge may take to tidy up when it has been interrupted.
_TIDYING = 30
_FORKS = sys.platform == "linux"


class Cost(NamedTuple):
    """What a merge took, and what came of its `auto`.

    Attributes:
        seconds: wall time without start-up.
        peak_bytes: resident memory of the whole process, libraries included; None where
            it is not known.
        auto: what `lambda: auto` became, in words; empty without it.
    """

    seconds: float
    peak_bytes: int | None
    auto: str = ""


class MergeServer:
    """Runs recipes in processes of their own; what mergekit prints is printed.

    Args:
        options: of mergekit-yaml, by the names of its parameters, for ``json.dumps``.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Start nothing yet."""
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, recipe: Path, out: Path) -> Cost:
        """Run a recipe file; the folder ``out`` is then complete, or absent.

        Raises:
            PCBError: mergekit could not do it; the message is its own.
        """
        try:
            told = self._ask([str(recipe), str(out), self._options])
        except BaseException:
            self.close()
            # The merge may be complete all the same, but its cost is unknown.
            shutil.rmtree(out, ignore_errors=True)
            raise
        if "cost" not in told:
            raise PCBError(_reason(told))
        return Cost(**told["cost"])

    def close(self) -> None:
        """End the server, and a merge that is going on."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=_TIDYING + 5)
        except subprocess.TimeoutExpired:
            # Of the merge, too: it is in the group of the server.
            os.killpg(process.pid, signal.SIGKILL) if _FORKS else process.kill()
        with process:
            pass

    def _ask(self, request: list[Any]) -> dict[str, Any]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it was ended from elsewhere, between two merges
        if self._process is None:
            self._process = _started()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        told: dict[str, Any] = {"last": ""}
        # A progress bar ends its lines with carriage returns, which count as line ends.
        for line in process.stdout:
            if line.startswith(_MARK):
                told |= json.loads(line.removeprefix(_MARK))
                if "status" in told:
                    return told
                continue
            sys.stdout.write(line)
            if line.strip() and "%|" not in line:
                told["last"] = line.strip()
        self.close()
        return {"status": process.returncode, **told}


@contextmanager
def merge_server(options: Mapping[str, Any]) -> Iterator[MergeServer]:
    """A `MergeServer` that ends with the block."""
    server = MergeServer(options)
    try:
        yield server
    finally:
        server.close()


def _started() -> subprocess.Popen[str]:
    # In a session of its own, because Ctrl-C would reach it in the terminal's group
    # directly, and a merge again from here; the second of two would interrupt the
    # cleaning-up that the first began.
    return subprocess.Popen(
        [sys.executable, "-m", __name__, "fork" if _FORKS else "once"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )


def _reason(told: Mapping[str, Any]) -> str:
    """Why a merge has failed, from what its process has told, or its last line."""
    status: int = told["status"]
    if "failed" in told:
        return str(told["failed"])
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the merge was ended by {name}{hint}"
    return told["last"] or f"the merge ended with status {status}"


def peak_memory() -> int | None:
    """The largest resident size of this process so far, in bytes, if known."""
    # Not getrusage: on Linux a process inherits there the peak of its parent, which
    # may have held a whole model.
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def merge_here(recipe: Path, out: Path, options: Mapping[str, Any]) -> Cost:
    """Run a recipe in this process, whose memory is not that of the merge."""
    from mergekit_pcb.commands.merge import merge

    start = time.perf_counter()
    files = {"config_file": str(recipe), "out_path": str(out)}
    told: list[LambdaSummary] = []
    before = tell.set(told.append)
    try:
        click.Context(merge).invoke(merge, **files, **options)
    finally:
        tell.reset(before)
    auto = ", ".join(map(_in_words, told))
    return Cost(round(time.perf_counter() - start, 2), None, auto)


def _in_words(found: LambdaSummary) -> str:
    if found.least == found.largest:
        return f"{found.middle:.4g}"
    return f"{found.middle:.3g} ({found.least:.3g} to {found.largest:.3g})"


def _serve(*, forks: bool) -> None:
    # What every merge then finds imported. A part of it is imported late: the compiled
    # loops.
    importlib.import_module("mergekit_pcb.commands.merge")
    numba_problem()
    for line in sys.stdin:
        if not forks:
            _answer(*json.loads(line))
            return
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            _tell(status=os.waitstatus_to_exitcode(status))
            continue
        try:
            _answer(*json.loads(line))
        finally:
            # Without the interpreter's own end, which takes seconds, and which is for
            # the process that imported what is here.
            sys.stdout.flush()
            os._exit(0)


def _answer(recipe: str, out: str, options: Mapping[str, Any]) -> None:
    """Merge, and tell what it took, or why it failed."""
    _end_with_parent()
    try:
        cost = merge_here(Path(recipe), Path(out), options)
    except click.ClickException as error:
        error.show()
        _tell(failed=error.format_message())
    except Exception as error:
        traceback.print_exc()
        _tell(failed=" ".join(f"{type(error).__name__}: {error}".split()))
    else:
        _tell(cost=cost._replace(peak_bytes=peak_memory())._asdict())


def _tell(**facts: Any) -> None:
    # Something may have been printed without an end of line.
    sys.stdout.write(f"\n{_MARK}{json.dumps(facts)}\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    """Interrupt this process when the comparison wants it or has died, however."""

    def watch() -> None:
        # Not sys.stdin: its lock could not be taken when this process ends.
        while os.read(0, 1):
            pass
        if hasattr(signal, "pthread_kill"):
            main = threading.main_thread().ident
            assert main is not None
            # So that it also wakes from what it waits for.
            signal.pthread_kill(main, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)
        time.sleep(_TIDYING)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _serve(forks=sys.argv[1] == "fork")
