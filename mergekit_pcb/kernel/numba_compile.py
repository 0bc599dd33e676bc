"""Compile loops with numba, keep the result on disk, and say so the first time."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

if getattr(numba.config, "DISABLE_JIT", False):
    raise ImportError("numba is switched off by NUMBA_DISABLE_JIT")


def compiled(function: Callable[..., Any]) -> Any:
    """Decorator: compile at the first call, for the processor that it runs on.

    numba keeps the result beside the source file, or, where that folder cannot be
    written, in the user's cache (`NUMBA_CACHE_DIR` names another folder). Compiled
    functions run without the interpreter's lock, so threads do not wait for each other.
    """
    # As in numpy and torch, division by zero gives infinity or NaN.
    compile_it = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compile_it(function, cache=True)
    except RuntimeError:  # no folder can be written
        return compile_it(function)


class _Announcement(event.Listener):
    """Prints one line at the first compilation of this process."""

    def __init__(self) -> None:
        self._made = False

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        if self._made or not dispatcher.__module__.startswith(__package__):
            return
        self._made = True
        kept = dispatcher.stats.cache_path
        where = f"kept in {os.fspath(kept)}" if kept else "for this process only"
        message = f"compiling loops for this processor, which takes a moment ({where})"
        if sys.stderr is not None:
            sys.stderr.write(f"mergekit-pcb: {message}\n")

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())  # type: ignore[no-untyped-call]
