"""A domain's statistics from sweeps over it, in bounded memory: exact order statistics.

The domain is read once for the magnitudes and once for the scores. A random sample
places a bracket around each wanted value; what a sweep counts and collects there gives
the exact value, or shows that the bracket missed and has to be widened.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from mergekit_pcb.kernel.backends import backend_for, backend_for_sample
from mergekit_pcb.kernel.collectors import RankSearch
from mergekit_pcb.kernel.domain import Domain, Scoring
from mergekit_pcb.kernel.order_statistics import Bracket, require_finite
from mergekit_pcb.kernel.sampling import sample_coordinates
from mergekit_pcb.kernel.survivors import KeptSurvivors
from mergekit_pcb.kernel.task_vectors import TaskVectors, in_parallel, one_torch_thread

# Values collected inside the brackets, at most.
_COLLECTED = 3 << 20


class SweptDomain(Domain, Protocol):
    """A domain that can be read in sweeps."""

    @property
    def capacity(self) -> int:
        """How many values, of all models, a sweep may collect."""
        ...

    def sweep(self, scoring: Scoring | None, search: RankSearch) -> None:
        """Show the search all magnitudes, or all scores if there is a scoring."""
        ...

    def order_statistics(  # noqa: D102 as in Domain
        self, scoring: Scoring | None, ranks: Sequence[list[int]]
    ) -> tuple[Sequence[Sequence[float]], Sequence[float]]:
        return order_statistics(self, scoring, ranks)


@dataclass(frozen=True)
class TensorDomain(SweptDomain):
    """A domain of tensors that are all in memory.

    Attributes:
        tensors: of the same models, none empty.
        capacity: how many values, of all models, a sweep may collect.
        sampled: a sample that is known already.
        kept: of a single tensor, what a sweep over scores keeps for its merge.
    """

    tensors: Sequence[TaskVectors]
    capacity: int = _COLLECTED
    sampled: torch.Tensor | None = None
    kept: KeptSurvivors | None = None

    @property
    def models(self) -> int:  # noqa: D102 as in Domain
        return len(self.tensors[0].models)

    @property
    def size(self) -> int:  # noqa: D102
        return sum(tensor.size for tensor in self.tensors)

    def sample(self) -> torch.Tensor:  # noqa: D102
        return self._drawn if self.sampled is None else self.sampled

    @cached_property
    def _drawn(self) -> torch.Tensor:
        drawn = sample_coordinates(self.size, self.models)
        if drawn is None:
            return torch.cat([t.between(slice(0, t.size)) for t in self.tensors], dim=1)
        if len(self.tensors) == 1:
            return self.tensors[0].at(drawn.to(self.tensors[0].device))
        parts, start = [], 0
        for tensor in self.tensors:
            here = drawn[(drawn >= start) & (drawn < start + tensor.size)] - start
            parts.append(tensor.at(here.to(tensor.device)))
            start += tensor.size
        return torch.cat(parts, dim=1)

    def sweep(self, scoring: Scoring | None, search: RankSearch) -> None:  # noqa: D102
        for tensor in self.tensors:
            sweep_tensor(tensor, scoring, search, self.kept)


def sweep_tensor(
    tensor: TaskVectors,
    scoring: Scoring | None,
    search: RankSearch,
    kept: KeptSurvivors | None = None,
) -> None:
    """Show a search all magnitudes of one tensor, or all scores, block by block.

    Args:
        tensor: base and models.
        scoring: None for magnitudes, else for scores.
        search: is shown them.
        kept: keeps scores that may matter to the merge.

    Raises:
        NotFiniteError: the tensor holds NaN or infinity.
    """
    backend = backend_for(tensor, scoring.inter if scoring else None)
    if kept is not None:
        kept.begin(scoring, search.lowest())
    work = functools.partial(backend.collect, tensor, scoring, search, kept=kept)
    for seen in in_parallel(tensor, backend.block_size(tensor.device), work):
        search.absorb(seen)
    require_finite(search.top)


def order_statistics(
    domain: SweptDomain, scoring: Scoring | None, ranks: Sequence[list[int]]
) -> tuple[list[list[float]], list[float]]:
    """`domain.Domain.order_statistics` of a domain that is read in sweeps.

    One sweep, unless a bracket misses, or there are so many models that the values
    inside their brackets must be collected in several rounds.
    """
    with one_torch_thread():
        ordered = _ranked_sample(domain.sample(), scoring)
    found: list[list[float]] = [[] for _ in ranks]
    top = [math.nan] * len(ranks)
    slack = [1.0] * len(ranks)
    pending = []
    for i, of_model in enumerate(ranks):
        if scoring is not None and not scoring.extents[i].high:
            # It does not compete, whatever its scores are.
            found[i], top[i] = [0.0] * len(of_model), 0.0
        else:
            pending.append(i)
    while pending:
        search = RankSearch.of([[] for _ in ranks])
        capacity: float = domain.capacity
        for i in pending:
            brackets = [
                Bracket.around(k, domain.size, ordered[i], slack[i]) for k in ranks[i]
            ]
            capacity -= sum(bracket.expected for bracket in brackets)
            if capacity < 0 and any(search.brackets):
                break
            search.brackets[i] = brackets
        domain.sweep(scoring, search)
        for i, brackets in enumerate(search.brackets):
            values = [bracket.value() for bracket in brackets]
            if None in values:
                slack[i] *= 4
            elif values:
                top[i] = search.top[i]
                found[i] = [value for value in values if value is not None]
        pending = [i for i in pending if not found[i]]
    return found, top


def _ranked_sample(sample: torch.Tensor, scoring: Scoring | None) -> torch.Tensor:
    """Magnitudes or scores of an (n, m) sample, each row ascending, on the CPU."""
    if scoring is None:
        values = sample.abs()
    else:
        values = backend_for_sample(sample, scoring.inter).scores(sample, scoring)
    values = values.cpu()
    for row in values.numpy():
        row.sort()
    return values
