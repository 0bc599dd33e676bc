"""What a domain as a whole says of each model, from sweeps over it: exact ranks."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mergekit_pcb.kernel.backends import backend_for
from mergekit_pcb.kernel.collectors import Survey, require_finite
from mergekit_pcb.kernel.formula import (
    Extents,
    ModelStatistics,
    Room,
    clamp_ranks,
    threshold_rank,
)
from mergekit_pcb.kernel.order_statistics import Bracket
from mergekit_pcb.kernel.sweeps import Magnitudes, Measure, Scores
from mergekit_pcb.kernel.task_vectors import TaskVectors, one_torch_thread, share_out

# Task values drawn to place the brackets at most, and values collected inside them at
# a time.
_SAMPLE = 1 << 20
_COLLECTED = 3 << 20


class Domain(Protocol):
    """A set of coordinates, on which n models compete, that can be swept."""

    @property
    def models(self) -> int:
        """Number n of models."""
        ...

    @property
    def size(self) -> int:
        """Number d of coordinates."""
        ...

    @property
    def room(self) -> int:
        """How many values, of all models, a sweep may collect."""
        ...

    def sample(self) -> torch.Tensor:
        """The (n, m) task vectors at m coordinates drawn uniformly."""
        ...

    def sweep(self, measure: Measure, survey: Survey) -> None:
        """Show ``survey`` the ``measure`` of every block of task vectors."""
        ...


@dataclass(frozen=True)
class TensorDomain:
    """A domain of tensors that are all in memory."""

    tensors: Sequence[TaskVectors]

    @property
    def models(self) -> int:  # noqa: D102 as in Domain
        return len(self.tensors[0].models)

    @property
    def size(self) -> int:  # noqa: D102
        return sum(tensor.size for tensor in self.tensors)

    @property
    def room(self) -> int:  # noqa: D102
        return _COLLECTED

    def sample(self) -> torch.Tensor:  # noqa: D102
        # Drawing costs as much as the narrower brackets then save.
        worthwhile = int(self.size ** (2 / 3))
        count = max(min(worthwhile, _SAMPLE // self.models), 1000)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(
            self.size, (count,), generator=generator, device=generator.device
        )
        # In the order of memory, or of the file that it is still to be read from.
        drawn.numpy().sort()
        if len(self.tensors) == 1:
            return self.tensors[0].at(drawn.to(self.tensors[0].device))
        parts, start = [], 0
        for tensor in self.tensors:
            here = drawn[(drawn >= start) & (drawn < start + tensor.size)] - start
            parts.append(tensor.at(here.to(tensor.device)))
            start += tensor.size
        return torch.cat(parts, dim=1)

    def sweep(self, measure: Measure, survey: Survey) -> None:  # noqa: D102
        for tensor in self.tensors:
            survey_tensor(tensor, measure, survey)


def survey_tensor(tensor: TaskVectors, measure: Measure, survey: Survey) -> None:
    """Show ``survey`` the ``measure`` of one tensor, block by block.

    Raises:
        NotFiniteError: the tensor holds NaN or infinity.
    """
    backend = backend_for(tensor, measure.inter)
    work = functools.partial(backend.survey, tensor, measure, survey)
    for seen in share_out(tensor, backend.block, work):
        survey.absorb(seen)
    require_finite(survey.top)


def model_statistics(
    domain: Domain,
    density: Sequence[Sequence[float]],
    *,
    inter: str = "raw",
    clamp: float = 0.01,
) -> list[list[ModelStatistics]]:
    """Exact statistics of a domain from two sweeps over it.

    Args:
        domain: at least one coordinate.
        density: for each model the densities whose thresholds are wanted.
        inter: form of the inter-balancing.
        clamp: fraction of magnitudes clamped at each end.

    Returns:
        For each model, one `ModelStatistics` a density.

    Raises:
        NotFiniteError: an input holds NaN or infinity.
    """
    n, size = domain.models, domain.size
    sample = domain.sample()
    ends = [clamp_ranks(size, clamp)] * n
    pairs, _ = _ranked(domain, Magnitudes(), ends, sample)
    extents = Extents.of([(low, high) for low, high in pairs], sample)
    # A model that left everything untouched has no scores that matter.
    ranks = [
        [threshold_rank(size, r) for r in row if high]
        for row, (_, high) in zip(density, pairs, strict=True)
    ]
    thresholds, top = _ranked(domain, Scores(extents, inter), ranks, sample)
    return [
        [
            ModelStatistics.of(low, high, threshold, highest)
            for threshold in found or [math.inf] * len(row)
        ]
        for (low, high), row, found, highest in zip(
            pairs, density, thresholds, top, strict=True
        )
    ]


def _ranked(
    domain: Domain,
    measure: Measure,
    ranks: Sequence[Sequence[int]],
    sample: torch.Tensor,
) -> tuple[list[list[float]], list[float]]:
    """The values at each model's ranks, and its largest value.

    One sweep, unless a bracket misses or there are so many models that what lies
    inside their brackets must be collected in turns.
    """
    with one_torch_thread():
        ordered = _measured(measure, sample).cpu()
        for row in ordered.numpy():
            row.sort()
    found: list[list[float]] = [[] for _ in ranks]
    top = [math.nan] * len(ranks)
    slack = [1.0] * len(ranks)
    pending = [i for i, row in enumerate(ranks) if row]
    while pending:
        survey = Survey.of([[] for _ in ranks])
        room: float = domain.room
        for i in pending:
            brackets = [
                Bracket.around(k, domain.size, ordered[i], slack[i]) for k in ranks[i]
            ]
            room -= sum(bracket.expected for bracket in brackets)
            if room < 0 and any(survey.brackets):
                break
            survey.brackets[i] = brackets
        domain.sweep(measure, survey)
        for i, brackets in enumerate(survey.brackets):
            values = [bracket.value() for bracket in brackets]
            if None in values:
                slack[i] *= 4
            elif values:
                top[i] = survey.top[i]
                found[i] = [value for value in values if value is not None]
        pending = [i for i in pending if not found[i]]
    return found, top


def _measured(measure: Measure, sample: torch.Tensor) -> torch.Tensor:
    parts = [part.contiguous() for part in torch.split(sample, 1 << 13, dim=1)]
    measured = [measure(part, Room.like(part)) for part in parts]
    return torch.cat(measured, dim=1)
