"""A recipe that a command makes: printed, or in a file; and what to do with it."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.text import echo
from mergekit_pcb.printable import printable

# What follows the output folder in the command, by the command.
_ORDER = {"mergekit-multi": "-I merged/"}


def require_free(out: Path | None, *, force: bool) -> None:
    """Refuse to replace a file, unless that is wanted.

    Raises:
        PCBError: the file exists.
    """
    try:
        taken = out is not None and out.exists() and not force
    except OSError as error:
        raise PCBError(f"{out}: {error.strerror}") from error
    except RuntimeError as error:
        raise PCBError(f"{out}: {os.strerror(errno.ELOOP)}") from error
    if taken:
        raise PCBError(f"{out} exists: choose another --out, or add --force")


def deliver(
    text: str,
    out: Path | None,
    *,
    command: str = "mergekit-yaml",
    options: str = "",
    advice: Sequence[str] = (),
) -> None:
    """Print a recipe or write it, and say on standard error what to do next.

    Args:
        text: the recipe.
        out: the file; None prints it.
        command: of mergekit, that takes the recipe.
        options: of that command.
        advice: what else to know, a line each.

    Raises:
        PCBError: it cannot be written.
    """
    if out is None:
        echo(text, newline=False)
        name, done = "recipe.yml", "save this as recipe.yml"
    else:
        try:
            write_file(out, text)
        except OSError as error:
            raise PCBError(f"{out}: {error.strerror}") from error
        name, done = shlex.quote(str(out)), f"{out}: written"
    for line in advice:
        click.echo(printable(f"note: {line}"), err=True)
    merge = f"{command} {name} {_ORDER.get(command, 'merged/')} {options}".rstrip()
    click.echo(printable(f"{done}; next:"), err=True)
    click.echo(printable(f"  mergekit-pcb check {name}"), err=True)
    click.echo(printable(f"  {merge}"), err=True)
