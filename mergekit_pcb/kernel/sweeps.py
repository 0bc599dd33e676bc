"""What a sweep over the blocks of a tensor is for: a survey of values, or a merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from mergekit_pcb.kernel.formula import (
    Cut,
    Extents,
    ModelStatistics,
    Room,
    balance,
)


class Measure(Protocol):
    """Makes the values to survey out of task vectors.

    Attributes:
        name: what progress bars call them.
        inter: form of the inter-balancing.
    """

    name: ClassVar[str]

    @property
    def inter(self) -> str:  # noqa: D102
        ...

    def __call__(self, tau: torch.Tensor, room: Room) -> torch.Tensor:
        """The (n, m) values of (n, m) task vectors, somewhere in ``room``."""
        ...


@dataclass(frozen=True)
class Magnitudes:
    """How large task values are."""

    name: ClassVar[str] = "magnitudes"
    inter: str = "raw"  # does not matter

    def __call__(self, tau: torch.Tensor, room: Room) -> torch.Tensor:  # noqa: D102
        return torch.abs(tau, out=room.magnitude)


@dataclass(frozen=True)
class Scores:
    """The scores b that models compete with, see `formula.balance`."""

    name: ClassVar[str] = "scores"
    extents: Extents
    inter: str

    def __call__(self, tau: torch.Tensor, room: Room) -> torch.Tensor:  # noqa: D102
        return balance(tau, self.extents, self.inter, room)[1]


@dataclass(frozen=True)
class Setting:
    """How a tensor that is its own domain shall be merged.

    Attributes:
        density: r_i of each model.
        weight: w_i of each model.
        scale: lambda.
        inter: form of the inter-balancing.
        clamp: fraction of magnitudes clamped at each end.
    """

    density: Sequence[float]
    weight: Sequence[float]
    scale: float
    inter: str
    clamp: float


@dataclass(frozen=True)
class Merge:
    """Base + lambda * merged task vector.

    Attributes:
        extents: range of the magnitudes of each model.
        cut: which scores are kept and what they count.
        inter: form of the inter-balancing.
        scale: lambda.
        out: (d,) tensor for the result.
    """

    extents: Extents
    cut: Cut
    inter: str
    scale: float
    out: torch.Tensor

    @classmethod
    def of(
        cls,
        statistics: Sequence[ModelStatistics],
        weight: Sequence[float],
        inter: str,
        scale: float,
        out: torch.Tensor,
        like: torch.Tensor,
    ) -> Merge:
        """That of models with some statistics and weights, in numbers like those."""
        extents = Extents.of([(s.low, s.high) for s in statistics], like)
        return cls(extents, Cut.of(statistics, weight, like), inter, scale, out)
