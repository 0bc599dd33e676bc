"""Measures of the weights of a merge, which need no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.io import LazyTensorLoader

from mergekit_pcb.compare.evaluation import Score, Scores
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.tensors import architecture_weights, tensors_of
from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.metrics import Metrics, measure, total
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.output.progress import Progress

NORM = "merged / mean"


@dataclass
class WeightMetrics:
    """Measures of what was added to the base; none says that a merge is good.

    The norm over that of the mean of the task vectors, and the cosine similarity to
    the task vector of each expert.
    """

    splits = False
    can_rank = False
    what = (
        "No data. Norm ratio: norm of what was added to the base, over that of the "
        "mean task vector. cos: its cosine similarity to the task vector of an expert"
    )
    how_chosen = ""

    inputs: Inputs

    def identity(self, part: str) -> Any:
        """The models that are compared with."""
        inputs = self.inputs
        models = [inputs.identity_of(model) for model in inputs.models]
        return [models, list(inputs.experts), inputs.own_vocabulary]

    def __call__(self, model: Path, part: str, progress: Progress) -> Scores:
        """Read all models once, tensor by tensor."""
        folders = [*map(self.inputs.find, self.inputs.models), model]
        base, *others = map(_open, folders)
        names = self._names(folders)
        tallies = []
        for number, name in enumerate(names, start=1):
            if tally := _measured(name, base, others):
                tallies.append(tally)
            progress(100 * number / len(names))
        if not tallies:
            raise PCBError("no tensor of the base has the same shape in all models")
        return _scores(total(tallies), list(self.inputs.experts))

    def _names(self, folders: Sequence[Path]) -> list[str]:
        """Tensors to measure: the same for a merge and for an expert.

        Left out is what a merge has not, or has in another order.
        """
        common = set.intersection(*(set(tensors_of(f)) for f in folders))
        weights = architecture_weights(folders[0])
        if weights is None:
            return sorted(common)
        return sorted(
            weight.name
            for weight in weights
            if weight.name in common
            and not (self.inputs.own_vocabulary and weight.vocabulary_axis is not None)
        )


def _open(folder: Path) -> LazyTensorLoader:
    return LazyTensorLoader.from_disk(str(folder))


def _measured(
    name: str, base: LazyTensorLoader, others: list[LazyTensorLoader]
) -> Metrics | None:
    tensors = [loader.get_tensor(name, raise_on_missing=False) for loader in others]
    origin = base.get_tensor(name)
    found = [tensor for tensor in tensors if tensor is not None]
    assert origin is not None, "its name is from its own index"
    if len(found) < len(others) or not origin.is_floating_point():
        return None
    if any(tensor.shape != origin.shape for tensor in found) or not origin.numel():
        # A vocabulary that was extended; what was added has no counterpart.
        return None
    return measure(TaskVectors.of(origin, found))


def _scores(tally: Metrics, experts: list[str]) -> Scores:
    *_, merged_norm = tally.norms()
    *cosines, _ = tally.cosines()[-1]
    count = len(experts)
    mean = torch.from_numpy(tally.dots[:count, :count]).sum().sqrt().item() / count
    scores = {}
    if mean:
        scores[NORM] = Score(merged_norm / mean, NORM, None)
    for expert, cosine in zip(experts, cosines, strict=True):
        if cosine is not None:
            scores[f"cos {expert}"] = Score(cosine, "cosine", None)
    return scores
