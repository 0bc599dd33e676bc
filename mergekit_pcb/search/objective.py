"""What candidates are scored by: agreement, or an evaluation of `compare`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mergekit_pcb.compare.disk import merged_size
from mergekit_pcb.compare.evaluation import Evaluation, Scores
from mergekit_pcb.output.progress import Progress
from mergekit_pcb.plugin.adapters import copy_tokenizer


class Objective(Protocol):
    """Scores a model in memory.

    Attributes:
        what: a sentence for the report.
        how_chosen: which items choose and which are shown, if it `splits`.
        splits: whether validation and test are different items.
        can_tune_weights: whether weights of models can be tuned by it.
        leaves_weights: whether it certainly leaves those of the model as they are.
    """

    what: str
    how_chosen: str
    splits: bool
    can_tune_weights: bool
    leaves_weights: bool

    def identity(self, part: str) -> Any:
        """All that the scores depend on besides the model, for ``json.dumps``."""

    def room(self) -> int:
        """Bytes of disk that it needs, about."""

    def __call__(self, model: Any, part: str, progress: Progress) -> Scores:
        """Score a model of transformers on a part of the items."""


class InMemory(Protocol):
    """An evaluation of `compare` that also takes a model in memory."""

    what: str
    how_chosen: str
    splits: bool
    leaves_weights: bool

    def identity(self, part: str) -> Any:
        """That of an `Evaluation`."""

    def in_memory(self, model: Any, part: str) -> Scores:
        """Score a model of transformers on a part of the items."""


@dataclass
class _ByEvaluation:
    """An evaluation of `compare` as an objective, whatever it is given.

    Attributes:
        evaluation: the evaluation.
    """

    evaluation: Any

    can_tune_weights = True

    def __post_init__(self) -> None:
        self.what = self.evaluation.what
        self.how_chosen = self.evaluation.how_chosen
        self.splits = self.evaluation.splits

    def identity(self, part: str) -> Any:
        """That of the evaluation."""
        return self.evaluation.identity(part)


@dataclass
class ByModel(_ByEvaluation):
    """Given the model in memory."""

    evaluation: InMemory

    @property
    def leaves_weights(self) -> bool:
        """What the evaluation says of itself."""
        return self.evaluation.leaves_weights

    def room(self) -> int:
        """Bytes of disk that it needs: none."""
        return 0

    def __call__(self, model: Any, part: str, progress: Progress) -> Scores:
        """Score a model in memory."""
        return self.evaluation.in_memory(model, part)


@dataclass
class ByFolder(_ByEvaluation):
    """Given the folder of a model, which is written for each.

    Attributes:
        evaluation: the evaluation.
        scratch: where the folder is.
        base: gives the folder of the base, whose tokenizer the folder gets.
    """

    evaluation: Evaluation
    scratch: Path
    base: Callable[[], Path]

    leaves_weights = True

    def room(self) -> int:
        """Bytes of disk for the folder, about: models in memory are float32."""
        return merged_size(str(self.base()), "float32")

    def __call__(self, model: Any, part: str, progress: Progress) -> Scores:
        """Write the model to a folder, and evaluate that."""
        folder = self.scratch / "candidate"
        try:
            model.save_pretrained(folder)
            copy_tokenizer(self.base(), folder)
            return self.evaluation(folder, part, progress)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
