"""The models and contributions in memory, made when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_pcb.search.contributions import Contributions, Sources
from mergekit_pcb.search.model import MergedModel
from mergekit_pcb.search.space import Candidate, Setting


@dataclass
class Bench:
    """Turns candidates into models in memory.

    Contributions of one setting are kept at a time.

    Attributes:
        sources: the planned recipe.
        load: loads the base model for evaluation.
        scratch: a folder for mapped files.
    """

    sources: Sources
    load: Callable[[], Any]
    scratch: Path
    _merged: MergedModel | None = None
    _kept: tuple[tuple[Setting, bool], Contributions, Path] | None = None
    _files: int = field(default=0)

    def model_of(self, candidate: Candidate) -> Any:
        """The model with the weights of a candidate; the one before is overwritten."""
        merged = self._base()
        found = self.contributions(candidate.setting, by_model=bool(candidate.factors))
        merged.set(found, candidate.scale, candidate.factors)
        return merged.model

    def base_model(self) -> Any:
        """The model with the weights of the base."""
        merged = self._base()
        merged.set_to_base()
        return merged.model

    def contributions(
        self, setting: Setting, *, by_model: bool = False
    ) -> Contributions:
        """The contributions under a setting; those of another are forgotten."""
        self._base()
        if self._kept is not None:
            key, found, file = self._kept
            if key == (setting, by_model):
                return found
            self._kept = None
            file.unlink()
        self._files += 1
        file = self.scratch / f"contributions{self._files}.f32"
        found = self.sources.contributions(setting, file, by_model=by_model)
        self._kept = (setting, by_model), found, file
        return found

    def _base(self) -> MergedModel:
        if self._merged is None:
            base = self.sources.base(self.scratch / "base.f32")
            self._merged = MergedModel(self.load(), base, self.sources)
        return self._merged
