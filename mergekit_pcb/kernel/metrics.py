"""Metrics of task vectors, and of what PCB-Merging does with them.

Every metric is a count or a sum over coordinates. So those of blocks add up to those of
tensors, layers and the model, and only these few numbers are kept.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from mergekit_pcb.kernel.domain import ModelStatistics, Scoring
from mergekit_pcb.kernel.formula import (
    clamp_magnitudes,
    drop_and_rescale_,
    in_unit,
    scores,
    sum_models,
    weighted_mean,
)
from mergekit_pcb.kernel.task_vectors import TaskVectors, in_parallel
from mergekit_pcb.kernel.torch_backend import block_size

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Competition:
    """Which models compete on a tensor under one setting, and with what statistics.

    Attributes:
        models: rows of the task vectors that take part.
        statistics: of each of them on the setting's domain.
        weight: w_i of each of them.
        inter: form of the inter-balancing.
        scale: lambda.
    """

    models: Sequence[int]
    statistics: Sequence[ModelStatistics]
    weight: Sequence[float]
    inter: str = "raw"
    scale: float = 1.0

    @property
    def balancing(self) -> tuple[Any, ...]:
        """What the scores depend on, before any is dropped."""
        limits = [(of_model.low, of_model.high) for of_model in self.statistics]
        return tuple(self.models), self.inter, limits


@dataclass(frozen=True)
class CompetitionMetrics:
    """The result of a competition; models are those of the whole merge.

    A model keeps a coordinate where its rescaled score s_i is above 0, and wins it
    where that s_i is larger than every other's: its share of the result, s_i / sum s,
    is then the largest. Weights come after the competition and change no winner.

    Attributes:
        kept: (n,) coordinates each model keeps.
        keepers: coordinates that are kept by none, by one, and by several models.
        wins: (n,) coordinates each model wins.
        tied: coordinates that two or more models keep with the same, largest s.
        merged_square: squared norm of what the merge adds to the base.
    """

    kept: Array
    keepers: Array
    wins: Array
    tied: int
    merged_square: float

    def shares(self) -> tuple[float, float, float]:
        """Shares of the coordinates kept by none, by one, and by several models."""
        none, one, several = (self.keepers / self.keepers.sum()).tolist()
        return none, one, several

    def kept_shares(self) -> list[float]:
        """The density that each model came to."""
        shares: list[float] = (self.kept / self.keepers.sum()).tolist()
        return shares

    def win_shares(self) -> list[float] | None:
        """Of the coordinates that anybody keeps, the share that each model wins."""
        decided = int(self.keepers[1:].sum())
        return (self.wins / decided).tolist() if decided else None

    def tied_share(self) -> float | None:
        """Of the coordinates that anybody keeps, the share that nobody wins."""
        decided = int(self.keepers[1:].sum())
        return self.tied / decided if decided else None


@dataclass(frozen=True)
class Metrics:
    """The figures of some coordinates.

    Attributes:
        weights: how many coordinates.
        base_square: squared norm of the base.
        dots: (n, n) inner products of the task vectors.
        mean_square: squared norm of the mean of the task vectors.
        contested: coordinates where at least two task vectors are not zero.
        conflicting: contested ones where their signs disagree.
        outcomes: one for each competition.
    """

    weights: int
    base_square: float
    dots: Array
    mean_square: float
    contested: int
    conflicting: int
    outcomes: tuple[CompetitionMetrics, ...]

    def norms(self) -> list[float]:
        """Norm of each task vector."""
        return [math.sqrt(square) for square in self.dots.diagonal().tolist()]

    def cosines(self) -> list[list[float | None]]:
        """Cosine similarity of each two task vectors; None where one is all zero."""
        norms = self.norms()
        return [
            [
                min(max(dot / (a * b), -1.0), 1.0) if a and b else None
                for dot, b in zip(row, norms, strict=True)
            ]
            for row, a in zip(self.dots.tolist(), norms, strict=True)
        ]

    def conflict_share(self) -> float | None:
        """Share of the contested coordinates where signs disagree."""
        return self.conflicting / self.contested if self.contested else None

    def merged_over_mean(self, outcome: CompetitionMetrics) -> float | None:
        """Norm of what the merge adds to the base, over that of the mean task vector.

        A merge that works is of the order of 1; near 0, it wrote the base model.
        """
        if not self.mean_square:
            return None
        return math.sqrt(outcome.merged_square / self.mean_square)


def total(parts: Iterable[Metrics]) -> Metrics:
    """The metrics of several sets of coordinates together; at least one."""
    together: Metrics = _sum(list(parts))
    return together


def _sum(parts: Sequence[Any]) -> Any:
    def of(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(map(_sum, zip(*values, strict=True)))
        return sum(values[1:], start=values[0])

    kind = type(parts[0])
    return kind(*(of([getattr(p, f.name) for p in parts]) for f in fields(kind)))


def measure(
    vectors: TaskVectors,
    competitions: Sequence[Competition] = (),
    present: int | None = None,
) -> Metrics:
    """The metrics of one tensor, block by block, without a copy of it.

    Args:
        vectors: base and models, finite.
        competitions: whose outcomes are wanted.
        present: how many of the models have the tensor, if not all: those that do
            not count as having left it untouched, and not at all in the mean.
    """

    def measure_blocks(spans: Iterator[slice]) -> dict[int, Metrics]:
        found = {}
        for span, tau in vectors.blocks(spans):
            base = None if vectors.base is None else vectors.base[span]
            found[span.start] = measure_block(tau, base, competitions, present)
        return found

    # Sums are rounded: their order must not depend on which thread was faster.
    block = block_size(vectors.device)
    found = ChainMap(*in_parallel(vectors, block, measure_blocks))
    return total(found[start] for start in sorted(found))


def measure_block(
    tau: torch.Tensor,
    base: torch.Tensor | None,
    competitions: Sequence[Competition],
    present: int | None = None,
) -> Metrics:
    """The metrics of a block of (n, m) task vectors; arguments as for `measure`."""
    # Sums over billions of squares, which float32 cannot hold.
    wide = _wide(tau)
    mean = sum_models(wide).div_(present or len(tau))
    up, down = tau > 0, tau < 0
    return Metrics(
        weights=tau.shape[1],
        base_square=0.0 if base is None else _square(base),
        dots=(wide @ wide.T).cpu().numpy(),
        mean_square=_square(mean),
        contested=int((_count(up | down) > 1).sum()),
        conflicting=int(((_count(up) > 0) & (_count(down) > 0)).sum()),
        outcomes=tuple(_results(tau, competitions)),
    )


def _results(
    tau: torch.Tensor, competitions: Sequence[Competition]
) -> Iterable[CompetitionMetrics]:
    balanced = None
    for competition in competitions:
        if competition.balancing != balanced:
            balanced = competition.balancing
            models = list(competition.models)
            scoring = Scoring.of_statistics(competition.statistics, competition.inter)
            own = in_unit(tau if len(models) == len(tau) else tau[models], scoring.unit)
            magnitude = clamp_magnitudes(own, scoring.extents)
            b = scores(own, magnitude, scoring)
        s = drop_and_rescale_(b.clone(), own, competition.statistics)
        merged = weighted_mean(own, magnitude, s, competition.weight)
        merged *= competition.scale / scoring.unit
        yield _result(merged, s, competition.models, n=len(tau))


def _result(
    merged: torch.Tensor, s: torch.Tensor, models: Sequence[int], n: int
) -> CompetitionMetrics:
    kept = s > 0
    keepers = _count(kept)
    alone, together = keepers == 1, keepers > 1
    sole = int(alone.sum())
    # Few coordinates are left where there is anything to compare.
    rivals = s[:, together]
    leading = rivals == rivals.amax(dim=0)
    unrivalled = _count(leading) == 1
    wins = (kept & alone).sum(dim=1) + (leading & unrivalled).sum(dim=1)
    disputed = rivals.shape[1]
    return CompetitionMetrics(
        kept=_spread(kept.sum(dim=1), models, n),
        keepers=np.array([s.shape[1] - sole - disputed, sole, disputed]),
        wins=_spread(wins, models, n),
        tied=disputed - int(unrivalled.sum()),
        merged_square=_square(merged),
    )


def _count(rows: torch.Tensor) -> torch.Tensor:
    """How many of the (n, m) flags are set at each of m coordinates."""
    count = rows[0].to(torch.int16)
    for row in rows[1:]:
        count += row
    return count


def _square(values: torch.Tensor) -> float:
    wide = _wide(values)
    return float(wide.dot(wide))


def _wide(values: torch.Tensor) -> torch.Tensor:
    # Apple's accelerators know no float64.
    return (values.cpu() if values.device.type == "mps" else values).double()


def _spread(values: torch.Tensor, models: Sequence[int], n: int) -> Array:
    """Values of some of n models, and 0 for the others."""
    everybody = np.zeros(n, dtype=np.int64)
    everybody[list(models)] = values.cpu().numpy()
    return everybody
