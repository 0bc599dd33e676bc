"""One merge in a process of its own, with the time and the memory it took.

As a program, ``python -m mergekit_pcb.compare.merge_process FACTS RECIPE OUT OPTIONS``
merges as ``mergekit-pcb merge`` does and writes what it measured to the file FACTS.
"""

from __future__ import annotations

import _thread
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.errors import PCBError

# Where the reason of a failure begins, which may have several lines: what click
# prints, or the end of a traceback.
_LAST_WORDS = re.compile(
    r"^(?:Error: |(?=(?:\w+\.)*\w+(?:Error|Exception|Interrupt): ))", re.MULTILINE
)
# Seconds that a merge whose parent has died may take to tidy up.
_TIDYING = 30


class Cost(NamedTuple):
    """What a merge took: wall time without start-up, and peak resident memory.

    The memory is that of the whole process, libraries included, and None where it is
    not known.
    """

    seconds: float
    peak_bytes: int | None


def measured_merge(recipe: Path, out: Path, options: Mapping[str, Any]) -> Cost:
    """Run a recipe, and print what mergekit prints; ``out`` is complete, or absent.

    Args:
        recipe: the file.
        out: the folder for the merged model.
        options: of mergekit-yaml, by the names of its parameters, for ``json.dumps``.

    Raises:
        PCBError: mergekit could not do it; the message is its own.
    """
    with tempfile.TemporaryDirectory() as scratch:
        facts = Path(scratch, "facts.json")
        arguments = [str(facts), str(recipe), str(out), json.dumps(options)]
        # Ctrl-C reaches a process in the terminal's group directly, and again from
        # here; the second of two would interrupt the cleaning-up that the first began.
        with subprocess.Popen(
            [sys.executable, "-m", __name__, *arguments],
            # Never written to: its end tells the child that this process has died.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        ) as process:
            try:
                output = _printed(process)
            except BaseException:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                # The merge may be complete all the same, but its cost is unknown.
                shutil.rmtree(out, ignore_errors=True)
                raise
        if process.returncode != 0 or not facts.exists():
            raise PCBError(_reason(output, process.returncode))
        return Cost(**json.loads(facts.read_text(encoding="utf-8")))


def _printed(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    output = []
    # A progress bar ends its lines with carriage returns, which count as line ends.
    for line in process.stdout:
        sys.stdout.write(line)
        if "%|" not in line:
            output.append(line)
    process.wait()
    return "".join(output)


def _reason(output: str, status: int) -> str:
    if errors := list(_LAST_WORDS.finditer(output)):
        return " ".join(output[errors[-1].end() :].split())
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the merge was ended by {name}{hint}"
    lines = output.strip().splitlines() or [f"the merge ended with status {status}"]
    return lines[-1].strip()


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
    click.Context(merge).invoke(merge, **files, **options)
    return Cost(round(time.perf_counter() - start, 2), None)


def _end_with_parent() -> None:
    """Interrupt this process when the one that started it has died, however it did."""

    def watch() -> None:
        # Not sys.stdin: its lock could not be taken when this process ends.
        while os.read(0, 1):
            pass
        _thread.interrupt_main()
        time.sleep(_TIDYING)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@click.command()
@click.argument("facts")
@click.argument("recipe")
@click.argument("out")
@click.argument("options")
def _main(facts: str, recipe: str, out: str, options: str) -> None:
    _end_with_parent()
    cost = merge_here(Path(recipe), Path(out), json.loads(options))
    cost = cost._replace(peak_bytes=peak_memory())
    write_file(Path(facts), json.dumps(cost._asdict()))


if __name__ == "__main__":
    _main()
