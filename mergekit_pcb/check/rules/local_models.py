"""What the files of a model on this machine tell without its weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mergekit.architecture import ModelArchitecture, ModuleDefinition
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.common import ModelReference

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import checkpoint_problem, stored_tensors
from mergekit_pcb.recipes.model_config import config_of


@dataclass(frozen=True)
class LocalModel:
    """A model folder, or a file of weights.

    Attributes:
        path: where it is.
        config: its ``config.json``; empty if it has none that can be read.
        config_problem: why that is so, with the file's name.
    """

    path: Path
    config: Mapping[str, Any]
    config_problem: str | None = None

    @property
    def architecture(self) -> ModelArchitecture | None:
        """The model's definition in mergekit; None when there is no single one."""
        names: Any = self.config.get("architectures")
        one = isinstance(names, list) and len(names) == 1
        candidates = NAME_TO_ARCH.get(str(names[0]), []) if one else []
        if len(candidates) == 1:
            return candidates[0]
        kind = self.config.get("model_type")
        return next((c for c in candidates if c.expected_model_type == kind), None)

    @property
    def modules(self) -> Mapping[str, ModuleDefinition]:
        """The modules of that definition, by name."""
        return self.architecture.modules if self.architecture else {}

    def layers(self, module: str | None) -> int | None:
        """How many layers the model, or one module of it, has."""
        chosen = [m for name, m in self.modules.items() if module in (None, name)]
        if len(chosen) != 1:
            return None
        return self.number(chosen[0].architecture.num_layers_config_key())

    @property
    def vocabulary(self) -> int | None:
        """How many rows the embedding has."""
        known = self.architecture.vocab_size_config_key if self.architecture else None
        return self.number(known or "vocab_size")

    def number(self, key: str) -> int | None:
        """A whole number in the configuration; ``a.b`` is one inside another."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value if isinstance(value, int) else None

    @cached_property
    def problem(self) -> str | None:
        """What is wrong with the weight files; see `checkpoint_problem`."""
        return checkpoint_problem(self.path)

    @cached_property
    def tensors(self) -> Mapping[str, tuple[Path, str | None]] | None:
        """File and dtype of each tensor; None if they are not known without reading.

        The dtype is None where only the tensor's name is known.
        """
        if self.problem is not None:
            return None
        if self.path.is_file():
            return _in_file(self.path)
        for name in ("model.safetensors", "pytorch_model.bin"):
            index, whole = self.path / f"{name}.index.json", self.path / name
            if index.exists():
                return _in_index(index)
            if whole.exists():
                return _in_file(whole)
        return None

    @cached_property
    def weights(self) -> Mapping[str, tuple[str, ...]] | None:
        """The names that mergekit loads, each with the other names it may have.

        None if mergekit has no definition of the model.
        """
        if self.architecture is None:
            return None
        try:
            found = self.architecture.all_weights(_attributes(self.config))
        except (RuntimeError, TypeError, AttributeError):
            return None  # the number of layers is nowhere in the configuration
        return {
            weight.name: (*(weight.aliases or ()), *(weight.tied_names or ()))
            for weight in found
        }


def local_model(document: Document, model: ModelReference) -> LocalModel | None:
    """The model of a reference; None for a model on the hub, or with an adapter."""
    if model not in document.local_models:
        document.local_models[model] = _looked_up(document, model)
    found: LocalModel | None = document.local_models[model]
    return found


def _looked_up(document: Document, model: ModelReference) -> LocalModel | None:
    path = Path(model.model.path)
    if model.lora is not None or not path.exists():
        return None
    if document.kind == PYTORCH:
        return None if path.is_dir() else LocalModel(path, {})
    try:
        config = config_of(path)
    except PCBError as error:
        return LocalModel(path, {}, error.message)
    return None if config is None else LocalModel(path, config)


def _in_file(path: Path) -> Mapping[str, tuple[Path, str | None]] | None:
    if path.suffix.lower() != ".safetensors":
        return None
    tensors = stored_tensors(path) or {}
    return {name: (path, tensor.dtype) for name, tensor in tensors.items()}


def _in_index(index: Path) -> Mapping[str, tuple[Path, str | None]]:
    found: dict[str, tuple[Path, str | None]] = {}
    dtypes = functools.cache(_in_file)
    for name, shard in json.loads(index.read_bytes())["weight_map"].items():
        path = index.parent / shard
        found[name] = (dtypes(path) or {}).get(name, (path, None))
    return found


def _attributes(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{key: _attributes(v) for key, v in value.items()})
    return value
