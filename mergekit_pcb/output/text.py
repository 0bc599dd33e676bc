"""Text for people: sizes, and standard output."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import click

from mergekit_pcb.errors import PCBError


def size(count: float) -> str:
    """A number of bytes in the unit that leaves one to three digits before the point.

    Example:
        >>> size(0), size(812), size(1_234_000), size(13.5e9)
        ('0 B', '812 B', '1.2 MB', '13.5 GB')
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        # What would be rounded to 1000 belongs to the next unit.
        if count >= 0.9995 * unit:
            return f"{count / unit:.{1 if count < 99.95 * unit else 0}f} {name}"
    return f"{count:.0f} B"


def echo(text: str, *, newline: bool = True) -> None:
    """Print to standard output.

    Raises:
        PCBError: it cannot be written, because the disk is full, for instance. A closed
            pipe is left to click, which ends the process without a word.
    """
    try:
        click.echo(text, nl=newline)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        where = _redirected_to() or "standard output"
        _discard_standard_output()
        raise PCBError(f"{where}: {error.strerror}") from error


def _redirected_to() -> str:
    """The file behind standard output, where the system says so."""
    try:
        return str(Path(f"/proc/self/fd/{sys.stdout.fileno()}").readlink())
    except (OSError, ValueError):
        return ""


def _discard_standard_output() -> None:
    """Send what is still in its buffer nowhere, else Python complains as it ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # it is no file, in tests for instance
        pass
