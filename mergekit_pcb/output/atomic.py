"""How a command ends: all of its output is there, or none, and one line says why."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import yaml
from huggingface_hub.errors import HFValidationError
from mergekit.config import MergeConfiguration
from pydantic import ValidationError
from safetensors import SafetensorError

from mergekit_pcb.errors import PCBError

# What a bad recipe, a bad checkpoint or a full disk raises somewhere below. Any other
# exception is a defect, whose traceback is worth more than a line.
_EXPECTED = (
    ValueError,
    RuntimeError,
    OSError,
    MemoryError,
    SafetensorError,
    yaml.YAMLError,
)


@contextmanager
def complete_or_absent(out_path: Path) -> Iterator[Path]:
    """Give a path to write to, whose content becomes ``out_path`` if all went well.

    The path has the last component of ``out_path``, because mergekit names the model
    after it, and lies in a hidden folder beside ``out_path``, so that it can be moved
    without copying. On any exception, Ctrl-C included, the hidden folder is removed.
    Files of an existing ``out_path`` stay unless the new content has the same names.

    Raises:
        PCBError: ``out_path`` is a file.
    """
    name = out_path.absolute().name
    target = out_path.resolve()
    if target.exists() and not target.is_dir():
        raise PCBError(f"{out_path} is a file; the output must be a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{name}.unfinished-", dir=target.parent))
    try:
        yield hidden / name
        # mergekit completes some architectures into a second folder beside the first,
        # which it then removes.
        for written in sorted(hidden.iterdir()):
            _move(
                written,
                target if written.name == name else target.parent / written.name,
            )
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    if not source.is_dir() or not target.exists():
        source.replace(target)
        return
    for entry in sorted(source.iterdir()):
        _move(entry, target / entry.name)


@contextmanager
def one_line_errors(config_file: str, *, verbose: bool) -> Iterator[None]:
    """Turn what a bad recipe, checkpoint or disk raises into one line.

    Args:
        config_file: the recipe, which messages name.
        verbose: whether to print the traceback as well.

    Raises:
        PCBError: instead of what mergekit and the libraries below it raise.
    """
    try:
        yield
    except click.ClickException:
        if verbose:
            traceback.print_exc()
        raise
    except _EXPECTED as error:
        if verbose:
            traceback.print_exc()
        raise PCBError(_describe(error, config_file)) from error


def _describe(error: BaseException, config_file: str) -> str:
    if isinstance(error, ValidationError):
        text = "; ".join(
            ": ".join(filter(None, [".".join(map(str, e["loc"])), e["msg"]]))
            for e in error.errors()
        )
        text = text.replace("Value error, ", "")
        if error.title == MergeConfiguration.__name__:
            text = f"{config_file}: {text}"
    elif isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        text = f"{config_file}:{mark.line + 1}:{mark.column + 1}: {error.problem}"
    elif any(
        isinstance(e, HFValidationError)
        for e in (error, error.__cause__, error.__context__)
    ):
        # What is not a folder here is taken for a name on the hub.
        text = f"a model is neither a folder here nor a name on the hub: {error}"
    elif isinstance(error, OSError) and error.strerror:
        named = os.fspath(error.filename) if error.filename is not None else ""
        text = ": ".join(filter(None, [str(named), error.strerror]))
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
