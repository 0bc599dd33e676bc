"""Compile loops with numba, keep the result on disk, and say so the first time."""

# numba has no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile

if getattr(numba.config, "DISABLE_JIT", False):
    raise ImportError("numba is switched off by NUMBA_DISABLE_JIT")


def compiled(function: Callable[..., Any]) -> Any:
    """Decorator: compile at the first call, for the processor that it runs on.

    numba keeps the result beside the source file, or, where that folder cannot be
    written, in the user's cache (`NUMBA_CACHE_DIR` names another folder). A cache that
    cannot be read or written costs a compilation and one line on standard error.
    Compiled functions run without the interpreter's lock, so threads do not wait for
    each other.
    """
    # As in numpy and torch, division by zero gives infinity or NaN.
    dispatcher = numba.njit(function, nogil=True, error_model="numpy")
    with contextlib.suppress(RuntimeError, OSError):  # no folder can be written
        dispatcher._cache = _TolerantCache(function)
    return dispatcher


class _CheckedFile(IndexDataCacheFile):
    """Files of one function, with a digest: damaged machine code ends the process."""

    _SIZE = hashlib.sha256().digest_size

    def _digest(self, data: bytes) -> bytes:
        owner = f"{self._index_name} {self._version} ".encode()
        return hashlib.sha256(owner + data).digest()

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            # pickle does not read what stands behind its data.
            file.write(content + self._digest(content))

    def _load_data(self, name: str) -> Any:
        file = Path(self._data_path(name)).read_bytes()
        content, digest = file[: -self._SIZE], file[-self._SIZE :]
        if digest != self._digest(content):
            raise ValueError(f"{name} is damaged, or not of this function")
        return super()._load_data(name)


@functools.cache
def _source_stamp() -> str:
    """Changes with any source file of the kernel: a loop contains those it calls."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _TolerantCache(FunctionCache):
    """A cache whose failures mean compiling again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # Under a name of their own, files without a digest are none of ours.
        self._cache_file = _CheckedFile(
            self._cache_path,
            f"{self._impl.filename_base}.checked",
            _source_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # pickle raises what the damaged file leads to
            _warn_once("read", self.cache_path, error)
        with contextlib.suppress(OSError):
            self.flush()  # else nothing could be saved either
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn_once("written", self.cache_path, error)


def _warn_once(verb: str, folder: str, error: Exception) -> None:
    if verb in _warned or sys.stderr is None:
        return
    _warned.add(verb)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    sys.stderr.write(
        f"mergekit-pcb: warning: compiled loops in {os.fspath(folder)} cannot be "
        f"{verb} ({' '.join(str(reason).split())}): they are compiled again\n"
    )


_warned: set[str] = set()


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


event.register("numba:compile", _Announcement())
