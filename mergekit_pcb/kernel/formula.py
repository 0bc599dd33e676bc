"""PCB-Merging's mathematics on task vectors (arXiv 2410.02396, section 3).

Everything works on a *block*: the (n, m) task vectors of n models at m coordinates.
What a block cannot know, because it takes every coordinate of the domain, comes in as
`ModelStatistics`. So the same lines serve a whole domain at once
(`merge_task_vectors`) and a sweep over it in pieces (`merge`): block by
block they give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from mergekit_pcb.kernel.exp2_tanh import LOG2_E, exp2_, tanh_
from mergekit_pcb.kernel.order_statistics import kth_smallest

INTER_FORMS = ("raw", "normalized", "pairwise")

# exp(n u^2) is 2 to the power of this at most, with room for the other factors: float32
# ends at 2^128. Below the other, it is not normal any more.
_LARGEST_EXPONENT, LEAST_EXPONENT = 115.5, -126.0


class ModelStatistics(NamedTuple):
    """What the domain as a whole says of one model.

    Attributes:
        low: smallest magnitude after clamping.
        high: largest magnitude after clamping; 0 for a model that does not compete.
        threshold: the score t_i that the kept fraction of coordinates reaches.
        top: largest score.
    """

    low: float
    high: float
    threshold: float
    top: float

    @classmethod
    def of(
        cls, low: float, high: float, threshold: float, top: float
    ) -> ModelStatistics:
        """The statistics, with a threshold out of reach if the model is all zero."""
        if high == 0:
            return cls(low, high, math.inf, -math.inf)
        return cls(low, high, threshold, top)

    @property
    def alike(self) -> bool:
        """Whether all scores that reach the threshold are equal."""
        return self.top <= self.threshold


class Extents(NamedTuple):
    """Range of the magnitudes of n models after clamping, as (n, 1) tensors.

    Attributes:
        low, high: smallest and largest.
        floor, spread: what to subtract, and then to divide by, to get u in [0, 1].
        table: (n, 4), the same side by side.
    """

    low: torch.Tensor
    high: torch.Tensor
    floor: torch.Tensor
    spread: torch.Tensor
    table: torch.Tensor

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]], like: torch.Tensor) -> Extents:
        """Those of low and high of each model, for work on tensors like that."""
        table = like.new_tensor(cls.rows(pairs))
        low, high, floor, spread = table.split_with_sizes([1] * 4, dim=1)
        return cls(low, high, floor, spread, table)

    @staticmethod
    def rows(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, ...]]:
        """The rows of the table."""
        # Equal magnitudes: u = 1. All of them 0: u = 0, nothing to compete with.
        return [
            (low, high, low, high - low) if low < high else (low, high, 0, high or 1)
            for low, high in pairs
        ]


class Cut(NamedTuple):
    """Which scores of n models are kept and what they count, as (n, 1) tensors.

    Attributes:
        threshold, span: what to subtract from a score, and then to divide it by.
        weight: w_i.
        table: (n, 3), the same side by side.
        weighted: whether a weight is not 1.
        alike: thresholds of models whose scores are equal and cannot be rescaled.
    """

    threshold: torch.Tensor
    span: torch.Tensor
    weight: torch.Tensor
    table: torch.Tensor
    weighted: bool
    alike: Mapping[int, float]

    @classmethod
    def of(
        cls,
        statistics: Sequence[ModelStatistics],
        weight: Sequence[float],
        like: torch.Tensor,
    ) -> Cut:
        """That of some statistics and weights, for work on tensors like that."""
        table = like.new_tensor(cls.rows(statistics, weight))
        threshold, span, weights = table.split_with_sizes([1] * 3, dim=1)
        weighted = any(w != 1 for w in weight)
        alike = {i: m.threshold for i, m in enumerate(statistics) if m.alike}
        return cls(threshold, span, weights, table, weighted, alike)

    @staticmethod
    def rows(
        statistics: Sequence[ModelStatistics], weight: Sequence[float]
    ) -> list[tuple[float, ...]]:
        """The rows of the table."""
        return [
            (m.threshold, m.top - m.threshold, w)
            for m, w in zip(statistics, weight, strict=True)
        ]


def clamp_ranks(size: int, clamp: float) -> tuple[int, int]:
    """Ranks of the smallest and largest magnitude left alone, of ``size`` >= 1.

    The index arithmetic is the published code's, rounding included.
    """
    low = min(int(size * clamp), size - 1)
    high = min(max(int(size * (1 - clamp) - 1), 0), size - 1)
    # Tiny domains round the upper rank below the lower; clipping then ends on it.
    return min(low, high), high


def threshold_rank(size: int, density: float) -> int:
    """Rank of the threshold score t_i among ``size`` >= 1 scores."""
    return min(int(size * (1 - density)), size - 1)


class Room(NamedTuple):
    """Memory for the intermediate results of a block.

    Attributes:
        u, magnitude, b: (n, m).
        sums: (2, m) sums over models.
    """

    u: torch.Tensor
    magnitude: torch.Tensor
    b: torch.Tensor
    sums: torch.Tensor

    @classmethod
    def like(cls, tau: torch.Tensor) -> Room:
        """New memory for a block of such (n, m) task vectors."""
        n, m = tau.shape
        return cls.of(tau.new_empty(3 * n + 2, m))

    @classmethod
    def of(cls, rows: torch.Tensor) -> Room:
        """That of (3 n + 2, m) memory."""
        n = len(rows) // 3
        return cls(rows[:n], rows[n : 2 * n], rows[2 * n : 3 * n], rows[3 * n :])


def merge_task_vectors(
    tau: torch.Tensor,
    *,
    density: Sequence[float],
    weight: Sequence[float],
    inter: str = "raw",
    clamp: float = 0.01,
) -> torch.Tensor:
    """Merge task vectors that are one domain and fit in memory: the plain algorithm.

    Args:
        tau: (n, d) task vectors, float32 or float64, finite; not modified.
        density: r_i in (0, 1], the fraction of coordinates where model i competes.
        weight: w_i, scales what model i contributes, after the competition.
        inter: form of the inter-balancing, one of `INTER_FORMS`.
        clamp: c in [0, 0.5), the fraction of magnitudes clamped at each end.

    Returns:
        The (d,) merged task vector of the dtype of ``tau``.
    """
    n, size = tau.shape
    if size == 0:
        return tau.new_zeros(0)
    room = Room.like(tau)
    magnitude = torch.abs(tau, out=room.magnitude)
    low, high = (kth_smallest(magnitude, [k] * n) for k in clamp_ranks(size, clamp))
    extents = Extents.of(list(zip(low, high, strict=True)), tau)
    magnitude, b = balance(tau, extents, inter, room)
    threshold = kth_smallest(b, [threshold_rank(size, r) for r in density])
    top = b.amax(dim=1).tolist()
    statistics = list(map(ModelStatistics.of, low, high, threshold, top))
    return compete(tau, magnitude, b, Cut.of(statistics, weight, tau), room)


def subtract_base(
    models: Sequence[torch.Tensor], base: torch.Tensor | None, memory: torch.Tensor
) -> torch.Tensor:
    """The (n, m) task vectors of a block.

    Args:
        models: n (m,) tensors of any floating-point dtype.
        base: (m,) tensor, or None if the models are task vectors already.
        memory: (n + 1, m), float32 or float64; the result is in its first n rows.
    """
    tau = memory[:-1]
    for task_vector, model in zip(tau, models, strict=True):
        task_vector.copy_(model)
    return tau if base is None else tau.sub_(memory[-1].copy_(base))


def add_to_base(
    merged: torch.Tensor,
    scale: float,
    base: torch.Tensor | None,
    out: torch.Tensor,
    memory: torch.Tensor,
) -> None:
    """Put base + lambda * merged task vector of a block into ``out``.

    Args:
        merged: (m,) merged task vector; overwritten.
        scale: lambda.
        base: (m,) tensor, or None to add nothing.
        out: (m,) tensor of any floating-point dtype.
        memory: (m,) like ``merged``, for the base.
    """
    merged *= scale
    if base is not None:
        merged += memory.copy_(base)
    out.copy_(merged)


def balance(
    tau: torch.Tensor, extents: Extents, inter: str, room: Room
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clamped magnitudes A and scores b = intra * inter of a block, both (n, m).

    Args:
        tau: (n, m) task vectors; not modified.
        extents: range of the magnitudes of each model.
        inter: form of the inter-balancing, one of `INTER_FORMS`.
        room: where to put the results.
    """
    u, magnitude, b, sums = room
    torch.abs(tau, out=magnitude).clamp_max_(extents.high).clamp_min_(extents.low)
    torch.sub(magnitude, extents.floor, out=u).div_(extents.spread)
    inter_balancing(tau, u, inter, b, sums[0])
    b *= intra_balancing_(u)
    return magnitude, b


def intra_balancing_(u: torch.Tensor) -> torch.Tensor:
    """Turn (n, m) normalised magnitudes into exp(n u^2): competition within a model."""
    steepness, shift = exponent_of(len(u))
    exponent = u.square_().mul_(steepness)
    if shift:
        exponent.sub_(shift).clamp_min_(LEAST_EXPONENT)
    return exp2_(exponent)


def exponent_of(n: int) -> tuple[float, float]:
    """What u^2 is multiplied by, and reduced by, so that exp(n u^2) is a power of two.

    Scores matter only up to a factor a model: beyond 80 models the exponent is
    reduced, so that it never overflows.
    """
    return n * LOG2_E, max(n * LOG2_E - _LARGEST_EXPONENT, 0.0)


def inter_balancing(
    tau: torch.Tensor,
    u: torch.Tensor,
    inter: str,
    out: torch.Tensor,
    sums: torch.Tensor,
) -> torch.Tensor:
    """Agreement of each model with all, (n, m): competition between models."""
    if inter == "raw":
        # An overflown sum would meet a zero task value as NaN; tanh is long saturated.
        total = sum_models(tau, out=sums).nan_to_num_()
        return tanh_(torch.mul(tau, total, out=out))
    if inter == "normalized":
        total = sum_models(tau.sign().mul_(u), out=sums)
        return tanh_(torch.mul(tau, total, out=out))
    signed = tau.sign().mul_(u)
    out.zero_()
    for i in range(len(signed)):
        for j in range(i, len(signed)):
            agreement = tanh_(signed[i] * signed[j])
            out[i] += agreement
            if j > i:
                out[j] += agreement
    return out


def compete(
    tau: torch.Tensor,
    magnitude: torch.Tensor,
    b: torch.Tensor,
    cut: Cut,
    room: Room,
) -> torch.Tensor:
    """The (m,) merged task vector of a block whose (n, m) scores b are known.

    ``b`` becomes s, see `drop_and_rescale`, ``room.u`` is overwritten, and the result
    is in ``room.sums``.
    """
    s = drop_and_rescale(b, tau, cut)
    share = torch.sign(tau, out=room.u).mul_(magnitude).mul_(s)
    if cut.weighted:
        share *= cut.weight
    merged, total = room.sums
    sum_models(s, out=total).clamp_min_(1e-12)
    return sum_models(share, out=merged).div_(total)


def drop_and_rescale(b: torch.Tensor, tau: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Turn (n, m) scores into s: 0 up to the threshold, then rising to 1 at the top."""
    # Equal scores cannot be rescaled: those that reach the threshold share alike.
    alike = {i: (b[i] >= reach) & (tau[i] != 0) for i, reach in cut.alike.items()}
    s = b.sub_(cut.threshold).clamp_min_(0).div_(cut.span)
    for i, reached in alike.items():
        s[i] = reached
    return s


def sum_models(block: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Sum over the models in their order: torch.sum's own depends on the shape."""
    first, *others = block.unbind()
    if not others:
        return out.copy_(first)
    torch.add(first, others[0], out=out)
    for row in others[1:]:
        out += row
    return out
