"""Sizes, and a standard output that cannot be written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mergekit_pcb.output.text import size


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (45_312, "45.3 kB"),
        (999_960, "1.0 MB"),
        (105e6, "105 MB"),
        (999.4e6, "999 MB"),
        (13.5e9, "13.5 GB"),
        (2e15, "2000 TB"),
    ],
)
def test_size(count: float, shown: str) -> None:
    """Never 0.0 of something."""
    assert size(count) == shown


_ECHO = """
import sys
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.text import echo
try:
    echo("x" * 100_000)
except PCBError as error:
    sys.exit(error.message)
"""


def test_standard_output_that_is_full() -> None:
    """One line with its name, and nothing from Python as it ends."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        run = subprocess.run(
            [sys.executable, "-c", _ECHO],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert run.stderr == "/dev/full: No space left on device\n"
    assert run.returncode == 1
