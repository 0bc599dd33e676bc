"""The models and contributions in memory, made when they are first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_pcb.search.contributions import Contributions, contributions
from mergekit_pcb.search.model import MergedModel
from mergekit_pcb.search.sources import Sources
from mergekit_pcb.search.space import Candidate, Setting, weights_of


@dataclass
class Bench:
    """Turns candidates into models in memory.

    Contributions of one setting are kept at a time.

    Attributes:
        sources: the planned recipe.
        load: loads the base model for evaluation.
        scratch: a folder for mapped files.
        settings: what will be asked for: their statistics are found together.
        depths: by name the place of each tensor, 0 to 1, if weights differ by it.
        anew: write all weights of each candidate: evaluations may have changed some.
    """

    sources: Sources
    load: Callable[[], Any]
    scratch: Path
    settings: Sequence[Setting] = ()
    depths: Mapping[str, float] = field(default_factory=dict)
    anew: bool = False
    _merged: MergedModel | None = None
    _kept: tuple[tuple[Setting, bool], Contributions, Path] | None = None
    _files: int = field(default=0)

    def model_of(self, candidate: Candidate) -> Any:
        """The model with the weights of a candidate; the one before is overwritten."""
        merged = self._base()
        found = self.contributions(candidate.setting, by_model=bool(candidate.factors))

        def weights(name: str) -> Sequence[float]:
            depth = self.depths.get(name, 0.0)
            return weights_of(candidate, name, depth, found.own_weights[name])

        merged.set(
            found,
            candidate.scale,
            weights if candidate.factors else None,
            anew=self.anew,
        )
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
        merged = self._base()
        if self._kept is not None:
            key, found, file = self._kept
            if key == (setting, by_model):
                return found
            # The disk gets its room back when nothing maps the file any more.
            merged.set_to_base()
            self._kept = None
            del found
            file.unlink()
        self._files += 1
        file = self.scratch / f"contributions{self._files}.bin"
        try:
            found = contributions(
                self.sources, setting, file, by_model=by_model, others=self.settings
            )
        except BaseException:
            # Of a full disk, what was written takes the last room.
            file.unlink(missing_ok=True)
            raise
        self._kept = (setting, by_model), found, file
        return found

    def _base(self) -> MergedModel:
        if self._merged is None:
            base = self.sources.base(self.scratch / "base.bin")
            self._merged = MergedModel(self.load(), base, self.sources)
        return self._merged
