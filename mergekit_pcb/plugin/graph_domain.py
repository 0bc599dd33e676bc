"""`scope: model` from a recipe: statistics as tasks of mergekit's lazy graph.

The planner's merge tasks define which tensors there are and how to load them. The same
loading tasks run before the merge, once to draw a sample and twice for the statistics:
lazily, tensor by tensor, with a few numbers as each result.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mergekit.common import ModelReference
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_pcb.kernel.collectors import RankSearch, TensorArena
from mergekit_pcb.kernel.domain import Scoring
from mergekit_pcb.kernel.statistics import SweptDomain, sweep_tensor
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.plugin.digests import (
    SAMPLE_MOST,
    TensorSample,
    draw,
    joined,
    most_needed,
)
from mergekit_pcb.plugin.run_tasks import Work, run_work
from mergekit_pcb.plugin.small_tensors import SmallTensors
from mergekit_pcb.plugin.tensor_groups import name_of, task_vectors

# Values that a sweep may collect, of all models: 128 MB.
_COLLECTED = 1 << 25


@dataclass(frozen=True)
class GraphDomain(SweptDomain):
    """A domain whose tensors are loaded by tasks, again for each sweep.

    Attributes:
        merges: the merge task of each tensor.
        references: the models, in the order of the task vectors.
        options: how to execute.
        names, sizes: name and coordinates of each tensor, in order of the names.
        sampled: (n, m) task vectors at m coordinates drawn uniformly.
        digests: for each model a digest of its weights and the base's.
        tensor_digests: the same of each tensor, by its name.
        small: tensors that need not be loaded again.
    """

    merges: Sequence[ExecuteMergeMethodTask]
    references: Sequence[ModelReference]
    options: MergeOptions
    names: Sequence[str]
    sizes: Sequence[int]
    sampled: torch.Tensor
    digests: Sequence[str]
    tensor_digests: Mapping[str, Sequence[bytes]]
    small: SmallTensors

    @classmethod
    def of(
        cls,
        merges: Sequence[ExecuteMergeMethodTask],
        references: Sequence[ModelReference],
        options: MergeOptions,
    ) -> GraphDomain:
        """Load every tensor once, for a sample and for digests of the weights."""
        samples: dict[str, TensorSample] = {}
        small = SmallTensors()

        def draw_one(vectors: TaskVectors, name: str) -> TensorSample:
            small.keep(name, vectors)
            return draw(vectors, name)

        work = _on_task_vectors(references, draw_one)
        arena = TensorArena()
        count = seen = 0
        for name, tensor in run_work(merges, work, options, "PCB: sampling"):
            samples[name] = tensor
            seen += tensor.size
            needed = most_needed(tensor.size, seen)
            tensor.tau = arena.keep(tensor.tau[:, :needed])
            count += tensor.tau.shape[1]
            if count > 2 * SAMPLE_MOST:
                count = _thin(samples.values())
        # The order of results differs between processes.
        tensors = sorted(samples.items())
        sizes = [tensor.size for _, tensor in tensors]
        parts = [(tensor.size, tensor.tau) for _, tensor in tensors]
        sample = joined(parts) if parts else torch.empty(len(references), 0)
        digests = [hashlib.sha256() for _ in references]
        for name, tensor in tensors:
            for digest, of_tensor in zip(digests, tensor.digests, strict=True):
                digest.update(f"{name} {tensor.size} ".encode() + of_tensor)
        hexadecimal = [digest.hexdigest() for digest in digests]
        by_tensor = {name: tensor.digests for name, tensor in tensors}
        return cls(
            merges,
            references,
            options,
            list(by_tensor),
            sizes,
            sample,
            hexadecimal,
            by_tensor,
            small,
        )

    @property
    def models(self) -> int:
        """Number n of models."""
        return len(self.references)

    @property
    def size(self) -> int:
        """Number d of coordinates."""
        return sum(self.sizes)

    @property
    def capacity(self) -> int:
        """How many values, of all models, a sweep may collect."""
        return _COLLECTED

    def sample(self) -> torch.Tensor:
        """The (n, m) task vectors at m coordinates drawn uniformly."""
        return self.sampled

    def sweep(self, scoring: Scoring | None, search: RankSearch) -> None:
        """Show the search all magnitudes, or scores, loading large tensors once."""

        def sweep_one(vectors: TaskVectors, name: str) -> RankSearch:
            seen = search.fresh()
            sweep_tensor(vectors, scoring, seen)
            return seen

        work = _on_task_vectors(self.references, sweep_one)
        label = f"PCB: {'magnitudes' if scoring is None else 'scores'}"
        arena = TensorArena()
        large = [m for m in self.merges if m.output_weight.name not in self.small.names]
        for vectors in self.small.task_vectors():
            sweep_tensor(vectors, scoring, search)
        for _, seen in run_work(large, work, self.options, label):
            for bracket in itertools.chain.from_iterable(seen.brackets):
                if bracket.inside:
                    bracket.inside = [arena.keep(torch.cat(bracket.inside))]
            search.absorb(seen)


def _on_task_vectors(
    references: Sequence[ModelReference], do: Callable[[TaskVectors, str], Any]
) -> Work:
    """Work with the task vectors of these models, and the name of the tensor."""
    return lambda group: do(task_vectors(group, references), name_of(group))


def _thin(tensors: Collection[TensorSample]) -> int:
    """Drop about half of the samples; returns how many coordinates are left."""
    share = SAMPLE_MOST / sum(tensor.size for tensor in tensors)
    arena = TensorArena()
    for tensor in tensors:
        keep = int(tensor.size * share) + 1
        tensor.tau = arena.keep(tensor.tau[:, :keep])
    return sum(tensor.tau.shape[1] for tensor in tensors)
