"""The exceptions this package raises on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from mergekit_pcb.printable import printable


class PCBError(click.ClickException, ValueError):
    """A mistake that a user can correct; one line that names the key and the fix.

    It is a click exception, so that mergekit's own commands print it as
    ``Error: …`` and exit with status 1 instead of showing a traceback, and a
    ``ValueError``, which callers of merge methods in Python expect. pydantic would
    wrap it, so nothing that pydantic calls may raise it.
    """

    def format_message(self) -> str:
        """The message as click prints it, whatever names of others it quotes."""
        return printable(" ".join(self.message.split()))


class BadUseError(PCBError):
    """A mistake on the command line; exits with status 2, as click's own do."""

    exit_code = 2


@contextmanager
def as_bad_use() -> Iterator[None]:
    """Turn errors about what the command line asks for into `BadUseError`."""
    try:
        yield
    except PCBError as error:
        raise BadUseError(error.message) from error
