"""The configuration of a model folder on this machine; weights are never opened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mergekit.architecture import ModelArchitecture
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.common import ModelReference


@dataclass(frozen=True)
class Folder:
    """A local model folder, by its ``config.json``; unknown values are None."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The folder's ``config.json``; empty when there is none to be read."""
        try:
            config = json.loads((self.path / "config.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return config if isinstance(config, dict) else {}

    @cached_property
    def architecture(self) -> ModelArchitecture | None:
        """The model's definition in mergekit; None when there is no single one."""
        names = self.config.get("architectures")
        if not isinstance(names, list) or len(names) != 1:
            return None
        candidates = NAME_TO_ARCH.get(names[0], [])
        matching = [
            candidate
            for candidate in candidates
            if candidate.expected_model_type == self.config.get("model_type")
        ]
        found = candidates if len(candidates) == 1 else matching
        return found[0] if found else None

    def layers(self, module: str | None) -> int | None:
        """How many layers the model, or one module of it, has."""
        if self.architecture is None:
            return None
        modules = self.architecture.modules
        name = module if module is not None else next(iter(modules))
        if name not in modules or (module is None and len(modules) > 1):
            return None
        return self._number(modules[name].architecture.num_layers_config_key())

    @property
    def vocabulary(self) -> int | None:
        """How many rows the embedding has."""
        known = self.architecture.vocab_size_config_key if self.architecture else None
        return self._number(known or "vocab_size")

    @property
    def width(self) -> int | None:
        """How many hidden dimensions the model has."""
        return self._number("hidden_size")

    def _number(self, key: str | None) -> int | None:
        value: Any = self.config
        for part in (key or "").split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value if isinstance(value, int) else None


def folder_of(model: ModelReference) -> Folder | None:
    """The folder of a local model; None for one that lives on the hub."""
    path = Path(model.model.path)
    return Folder(path) if path.is_dir() else None
