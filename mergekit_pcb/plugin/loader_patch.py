"""Wrappers around mergekit's loaders, so that an error names the file and the fix.

safetensors and torch say "header too small" or "No such device" without a file's name.
Nothing changes where nothing fails; what fails is then looked at more closely.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import (
    checkpoint_problem,
    file_problem,
    missing_tensor,
    special_file_problem,
    wrapped_problem,
)

_WRAPPED = "_mergekit_pcb_wraps"


def wrap_loaders(lazy_tensor_loader: ModuleType) -> None:
    """Wrap what opens checkpoints and reads tensors, unless it is wrapped already.

    Raises:
        AttributeError: this mergekit has no such functions.
    """
    index = lazy_tensor_loader.ShardedTensorIndex
    for name in ("from_disk", "from_file"):
        original = getattr(index, name)
        if not hasattr(original, _WRAPPED):
            setattr(index, name, staticmethod(_opening(original)))
    loader = lazy_tensor_loader.LazyTensorLoader
    if not hasattr(loader.get_tensor, _WRAPPED):
        loader.get_tensor = _reading(loader.get_tensor)


def _opening(original: Any) -> Any:
    @functools.wraps(original)
    def open_checkpoint(path: str) -> Any:
        if problem := special_file_problem(Path(path)):
            raise PCBError(problem)
        try:
            index = original(path)
        except PCBError:
            raise
        except Exception as error:
            problem = checkpoint_problem(Path(path), thorough=True)
            if problem is None:
                problem = f"{path} cannot be opened: {_one_line(error)}"
            raise PCBError(problem) from error
        # mergekit sees through `state_dict` when it lists tensors, and reads none.
        if not any("." in name for name in index.tensor_paths):
            for shard in sorted(set(index.tensor_paths.values())):
                if problem := wrapped_problem(Path(index.base_path, shard)):
                    raise PCBError(problem)
        return index

    setattr(open_checkpoint, _WRAPPED, True)
    return open_checkpoint


def _reading(original: Any) -> Any:
    @functools.wraps(original)
    def get_tensor(self: Any, key: str, *arguments: Any, **options: Any) -> Any:
        try:
            return original(self, key, *arguments, **options)
        except Exception as error:
            shard = self.index.tensor_paths.get(key)
            if shard is None:  # an alias, or a tensor that the model does not have
                raise
            path = Path(self.index.base_path, shard)
            problem = file_problem(path, thorough=True) or missing_tensor(path, key)
            if problem is None and isinstance(error, KeyError):
                problem = wrapped_problem(path)
            if problem is None and self.lazy_unpickle and path.suffix != ".safetensors":
                # mergekit 0.1.5 cannot read scalars and renamed archives lazily.
                self.flush()
                self.lazy_unpickle = False
                return get_tensor(self, key, *arguments, **options)
            if problem is None:
                problem = f"{key} cannot be read from {path}: {_one_line(error)}"
            raise PCBError(problem) from error

    setattr(get_tensor, _WRAPPED, True)
    return get_tensor


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
