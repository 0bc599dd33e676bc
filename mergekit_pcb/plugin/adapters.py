"""Adapters merged into their base model, in mergekit's cache: whole, and up to date.

mergekit takes any folder that has the right name in its cache, also one that an
interrupted run has left, or one made before the adapter was trained again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from mergekit_pcb.atomic_files import unfinished_folder
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import checkpoint_problem, file_problem

# Says of what a merged copy was made.
_ORIGIN = "mergekit_pcb_origin.json"
# What a model has for its texts, as transformers names the files.
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "*.model",
)


def merge_adapters(models: Iterable[ModelReference], options: MergeOptions) -> None:
    """Put a whole and current copy of each model with an adapter into the cache.

    Args:
        models: those without an adapter are skipped.
        options: mergekit's, which name the cache.

    Raises:
        PCBError: there is no cache, or an adapter cannot be merged; names the adapter.
    """
    for model in models:
        if model.lora is not None:
            _merge_adapter(model, options)


def _merge_adapter(model: ModelReference, options: MergeOptions) -> None:
    if not options.lora_merge_cache:
        raise PCBError(
            f"{model} has an adapter, and merged copies need a folder: give "
            "--lora-merge-cache DIR"
        )
    origin = _origin(model, options)
    cache = Path(options.lora_merge_cache)
    place = _place(model, cache)
    if _is_current(place, origin):
        return
    adapter = Path(model.lora.path) if model.lora else cache
    for file in adapter.glob("adapter_model.*") if adapter.is_dir() else ():
        if problem := file_problem(file):
            raise PCBError(problem)
    cache.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(cache, f".{place.name}.unfinished-") as hidden:
        try:
            model.merged(
                str(hidden), options.trust_remote_code, options.lora_merge_dtype
            )
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            text = f"the adapter {model.lora} cannot be merged into {model.model}"
            raise PCBError(f"{text}: {reason}") from error
        made = _place(model, hidden)
        _copy_tokenizer(model, made)
        (made / _ORIGIN).write_text(json.dumps(origin, indent=1), encoding="utf-8")
        if place.exists():
            shutil.rmtree(place)
        made.replace(place)


def _place(model: ModelReference, cache: Path) -> Path:
    """Where mergekit looks for the merged copy."""
    assert model.lora is not None
    parts: list[Any] = [model.model, model.lora]  # its names are not typed
    return cache / "_".join(part._unique_id() for part in parts)


def _is_current(place: Path, origin: Any) -> bool:
    try:
        made_of = json.loads((place / _ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(made_of == origin) and checkpoint_problem(place) is None


def _origin(model: ModelReference, options: MergeOptions) -> dict[str, Any]:
    """What a merged copy depends on: names, sizes and times of local files."""
    assert model.lora is not None
    return {
        "model": str(model.model),
        "lora": str(model.lora),
        "dtype": options.lora_merge_dtype,
        "files": [_files(Path(part.path)) for part in (model.model, model.lora)],
    }


def _files(folder: Path) -> list[list[Any]]:
    if not folder.is_dir():  # a name on the hub, whose revision does not change
        return []
    return [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns]
        for file in sorted(folder.iterdir())
        if file.is_file()
    ]


def _copy_tokenizer(model: ModelReference, folder: Path) -> None:
    """Give a merged copy a tokenizer: the adapter's own if it has one."""
    assert model.lora is not None
    for part in (model.model, model.lora):
        copy_tokenizer(Path(part.path), folder)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer from one folder, if it is one here, to another."""
    for pattern in _TOKENIZER if source.is_dir() else ():
        for file in filter(Path.is_file, source.glob(pattern)):
            shutil.copyfile(file, target / file.name)
