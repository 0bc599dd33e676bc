"""What is wrong with a checkpoint's files, told without reading weights if possible."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

# In the order in which mergekit looks for them.
_NAMES = ("model.safetensors", "pytorch_model.bin")
_POINTER = b"version https://git-lfs.github.com/spec/"
# Headers of the largest models are some ten megabytes.
_LARGEST_HEADER = 200_000_000
_AGAIN = "download it again"
# What safetensors calls the dtypes of torch.
_SAFETENSORS_NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def checkpoint_problem(path: Path, *, thorough: bool = False) -> str | None:
    """The first thing that is wrong with a model folder's or file's weights.

    Args:
        path: of the folder or file.
        thorough: read the whole of files that do not say how long they are, which
            versions of torch before 1.6 wrote.

    Returns:
        One line with the file, what is wrong, and the fix; None if nothing is.
    """
    if not path.is_dir():
        return file_problem(path, thorough=thorough)
    file = _first_file(path)
    if file is not None:
        examine = _index_problem if file.suffix == ".json" else file_problem
        return examine(file, thorough=thorough)
    return f"{path} has no weights: there is neither {' nor '.join(_NAMES)} in it"


def special_file_problem(path: Path) -> str | None:
    """The problem that a checkpoint is a pipe or a device, which opening hangs on."""
    file = _first_file(path) if path.is_dir() else path
    if file is None or not file.exists() or file.is_file():
        return None
    return file_problem(file)


def _first_file(folder: Path) -> Path | None:
    """The file that mergekit opens first, if there is one."""
    for name in _NAMES:
        for file in (folder / f"{name}.index.json", folder / name):
            if os.path.lexists(file):
                return file
    return None


def file_problem(path: Path, *, thorough: bool = False) -> str | None:
    """What is wrong with one weight file; as for `checkpoint_problem`."""
    unreadable = _unreadable(path)
    if unreadable:
        return f"{path} {unreadable}"
    if path.suffix.lower() == ".safetensors":
        try:
            _, end = _header(path)
        except ValueError as error:
            return f"{path} {error}: {_AGAIN}"
        size = path.stat().st_size
        if size < end:
            return f"{path} is cut off after {size:,} of {end:,} bytes: {_AGAIN}"
        return None
    with path.open("rb") as file:
        start = file.read(4)
    # torch.save writes a zip archive, whose directory is at its end; versions before
    # 1.6 wrote a pickle.
    if start == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        return f"{path} is cut off: {_AGAIN}"
    if start[:2] not in (b"PK", b"\x80\x02"):
        return f"{path} is not a checkpoint of torch: {_AGAIN}"
    return _pickle_problem(path) if thorough and start[:2] != b"PK" else None


class StoredTensor(NamedTuple):
    """What a file says of a tensor: its dtype, shape, and bytes.

    A dtype has the name that safetensors gives it, such as ``BF16``.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int


def stored_tensors(path: Path) -> dict[str, StoredTensor] | None:
    """The tensors in a weight file; None if it is one of torch that holds others.

    Raises:
        ValueError: it is named like a safetensors file and is none.
    """
    if path.suffix.lower() == ".safetensors":
        return _header(path)[0]
    content = _without_weights(path)
    if content is None:
        return None
    return {
        name: StoredTensor(
            _SAFETENSORS_NAMES.get(value.dtype, str(value.dtype)),
            tuple(value.shape),
            value.numel() * value.element_size(),
        )
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }


def missing_tensor(path: Path, tensor: str) -> str | None:
    """The problem that a weight file lacks a tensor, if it does."""
    if path.suffix.lower() != ".safetensors" or tensor in (stored_tensors(path) or {}):
        return None
    return f"{path} has no tensor {tensor}, which the index says is in it: {_AGAIN}"


def wrapped_problem(path: Path) -> str | None:
    """The problem that a file of torch holds its tensors one level down, if it does."""
    content = None if path.suffix.lower() == ".safetensors" else _without_weights(path)
    if content is None or _has_tensors(content):
        return None
    for key, value in content.items():
        if isinstance(value, dict) and _has_tensors(value):
            return (
                f"{path} is a training checkpoint, with its tensors under `{key}`: "
                f"save what torch.load(…)[{key!r}] gives as a file of its own"
            )
    return f"{path} holds no tensors by their names"


def _without_weights(path: Path) -> dict[Any, Any] | None:
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # of any kind; who reads the weights will say what is wrong
        return None
    return content if isinstance(content, dict) else None


def _pickle_problem(path: Path) -> str | None:
    """The problem that a file of torch before 1.6 is damaged, if that can be seen."""
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except (EOFError, IndexError, struct.error):
        return f"{path} is cut off: {_AGAIN}"
    except RuntimeError as error:
        if "unexpected EOF" in str(error):
            return f"{path} is cut off: {_AGAIN}"
    except pickle.UnpicklingError:  # it holds other things than weights
        pass
    except Exception:  # what bytes in the wrong place lead to
        return f"{path} is damaged: {_AGAIN}"
    return None


def _has_tensors(content: dict[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in content.values())


def _index_problem(index: Path, *, thorough: bool) -> str | None:
    unreadable = _unreadable(index)
    if unreadable:
        return f"{index} {unreadable}"
    try:
        files = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{index} is not an index of weights (no weight_map): {_AGAIN}"
    shards = [index.parent / file for file in sorted(map(str, files))]
    problems = (file_problem(shard, thorough=thorough) for shard in shards)
    return next(filter(None, problems), None)


def _unreadable(path: Path) -> str | None:
    """Why there is nothing to be read in a file, or None."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return f"is {_kind(mode)}, not a file of weights"
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except FileNotFoundError:
        return "is a broken link" if path.is_symlink() else "is missing: download it"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not start:
        return f"is empty: {_AGAIN}"
    if start == _POINTER:
        return "is a git-LFS pointer, not the file itself: run `git lfs pull` there"
    return None


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def _header(path: Path) -> tuple[dict[str, StoredTensor], int]:
    """The tensors in the header of a safetensors file, and the size that it announces.

    Raises:
        ValueError: says what the file is instead.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LARGEST_HEADER:
            raise ValueError("is not a safetensors file")
        text = file.read(length)
    if len(text) < length:
        raise ValueError("is cut off in its header")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        ends = [0]
        tensors = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            tensors[name] = StoredTensor(str(entry["dtype"]), shape, end - start)
            ends.append(end)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError("is not a safetensors file") from error
    return tensors, 8 + length + max(ends)
