"""How a command fails: one line says why."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click
import yaml
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from mergekit.config import MergeConfiguration
from pydantic import ValidationError
from safetensors import SafetensorError

from mergekit_pcb.errors import PCBError

# Of the hub's HTTP client, whose name changes from version to version: no network.
_NO_ANSWER: type[Exception] = HfHubHTTPError.__mro__[1]
# What a bad recipe, a bad checkpoint or a full disk raises somewhere below. Any other
# exception is a defect, whose traceback is worth more than a line.
_EXPECTED = (
    ValueError,
    RuntimeError,
    OSError,
    MemoryError,
    SafetensorError,
    _NO_ANSWER,
    yaml.YAMLError,
)


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
