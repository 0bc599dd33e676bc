"""A merge whose weights are written is kept, whatever fails after them.

mergekit writes the configuration, a model card, the tokenizer and some more files after
the weights. It would throw hours of work away because of a file that can be copied from
elsewhere, and asks the hub whether there is a model of the name of a local folder.
"""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from mergekit import card
from mergekit import merge as mergekit_merge

from mergekit_pcb.plugin.checkpoint_files import checkpoint_problem
from mergekit_pcb.printable import printable


@contextmanager
def weights_kept(folder: Path, *, verbose: bool) -> Iterator[None]:
    """Turn errors of `run_merge` into warnings once the weights in a folder are whole.

    Args:
        folder: where mergekit writes.
        verbose: whether to show tracebacks as well.
    """
    done: list[str] = []
    log = mergekit_merge.LOG
    one_line = functools.partial(_is_for_mergekit, verbose=verbose)
    with ExitStack() as stack:
        stack.enter_context(_replaced(card, "is_hf", _elsewhere(card.is_hf)))
        for name, what in (
            ("_set_chat_template", "the chat template was not set"),
            ("_copy_tagalong_files", "files beside the weights were not copied"),
        ):
            attempt = _attempt(getattr(mergekit_merge, name), what, verbose, done)
            stack.enter_context(_replaced(mergekit_merge, name, attempt))
        log.addFilter(one_line)
        stack.callback(log.removeFilter, one_line)
        try:
            yield
        except Exception as error:
            # After the last of these files mergekit may still complete the weights.
            if "_copy_tagalong_files" in done or not _is_whole(folder):
                raise
            missing = "" if (folder / "config.json").exists() else "config.json and "
            _warn(
                f"the weights are written, but {missing}what comes after them are "
                "not complete: copy what is missing from the base model",
                error,
                verbose,
            )


def _elsewhere(is_hf: Callable[[str], bool]) -> Callable[[str], bool]:
    # For a path that exists mergekit asks the hub, and waits where there is none.
    return lambda path: not Path(path).exists() and is_hf(path)


def _is_whole(folder: Path) -> bool:
    """Whether the weights are there: the last that mergekit does is to name them so."""
    return folder.is_dir() and checkpoint_problem(folder) is None


def _attempt(
    original: Callable[..., None], what: str, verbose: bool, done: list[str]
) -> Callable[..., None]:
    @functools.wraps(original)
    def attempt(*arguments: Any, **options: Any) -> None:
        try:
            original(*arguments, **options)
        except Exception as error:
            _warn(what, error, verbose)
        done.append(original.__name__)

    return attempt


def _is_for_mergekit(record: logging.LogRecord, *, verbose: bool) -> bool:
    """Print what would be logged with a traceback in a line of our own."""
    if verbose or not record.exc_info or record.exc_info[1] is None:
        return True
    _warn(record.getMessage().rstrip("."), record.exc_info[1], verbose)
    return False


def _warn(what: str, error: BaseException, verbose: bool) -> None:
    if verbose:
        traceback.print_exception(error)
    reason = str(error) or type(error).__name__
    click.echo(printable(" ".join(f"Warning: {what} ({reason})".split())), err=True)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
