"""PCB-Merging's mathematics on task vectors (arXiv 2410.02396, section 3).

Everything works on a *block*: the (n, m) task vectors of n models at m coordinates.
What a block cannot know, because it takes every coordinate of the domain, comes in as
`ModelStatistics`. So the same lines serve a whole domain at once
(`merge_task_vectors`) and a sweep over it in pieces (`mergekit_pcb.sweeps`): block by
block they give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mergekit_pcb.selection import kth_smallest

INTER_FORMS = ("raw", "normalized", "pairwise")

# exp(n u^2) reaches exp(_LARGEST_EXPONENT) at most: float32 ends at exp(88).
_LARGEST_EXPONENT = 80.0
# Below this tanh(x) is x in float32: tests try every such number.
_TANH_IS_IDENTITY = 2.0**-12


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
    room = new_room(tau)
    magnitude = torch.abs(tau, out=room[0])
    low, high = (kth_smallest(magnitude, [k] * n) for k in clamp_ranks(size, clamp))
    magnitude, b = balance(tau, list(zip(low, high, strict=True)), inter, room)
    threshold = kth_smallest(b, [threshold_rank(size, r) for r in density])
    top = b.amax(dim=1).tolist()
    statistics = [
        ModelStatistics.of(*of_model)
        for of_model in zip(low, high, threshold, top, strict=True)
    ]
    return compete(tau, magnitude, b, statistics, weight, room)


def merge_block(
    tau: torch.Tensor,
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    inter: str,
    room: torch.Tensor,
) -> torch.Tensor:
    """The (m,) merged task vector of a block of (n, m) task vectors.

    ``room`` is overwritten, see `new_room`.
    """
    extents = [(of_model.low, of_model.high) for of_model in statistics]
    magnitude, b = balance(tau, extents, inter, room)
    return compete(tau, magnitude, b, statistics, weight, room)


def new_room(tau: torch.Tensor) -> torch.Tensor:
    """Memory for the three (n, m) intermediate results of a block.

    A sweep gives every block the same: fresh memory costs more than the arithmetic.
    """
    return tau.new_empty((3, *tau.shape))


def balance(
    tau: torch.Tensor,
    extents: Sequence[tuple[float, float]],
    inter: str,
    room: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clamped magnitudes A and scores b = intra * inter of a block, both (n, m).

    Args:
        tau: (n, m) task vectors; not modified.
        extents: smallest and largest magnitude of each model after clamping.
        inter: form of the inter-balancing, one of `INTER_FORMS`.
        room: where to put the results, see `new_room`.
    """
    u, magnitude, b = room
    low, high, floor, spread = columns([(*e, *_scale(*e)) for e in extents], tau)
    torch.abs(tau, out=magnitude).clamp_max_(high).clamp_min_(low)
    torch.sub(magnitude, floor, out=u).div_(spread)
    inter_balancing(tau, u, inter, out=b)
    b *= intra_balancing_(u)
    return magnitude, b


def _scale(low: float, high: float) -> tuple[float, float]:
    """What to subtract from a magnitude and then divide it by, to get u."""
    if low < high:
        return low, high - low
    # Equal magnitudes: u = 1. All of them 0: u = 0, nothing to compete with.
    return 0.0, high or 1.0


def intra_balancing_(u: torch.Tensor) -> torch.Tensor:
    """Turn (n, m) normalised magnitudes into exp(n u^2): competition within a model.

    Scores matter only up to a factor a model: beyond 80 models the exponent is
    shifted, so that it never overflows.
    """
    n = u.shape[0]
    exponent = u.square_().mul_(n)
    if n > _LARGEST_EXPONENT:
        exponent -= n - _LARGEST_EXPONENT
    return exponent.exp_()


def inter_balancing(
    tau: torch.Tensor, u: torch.Tensor, inter: str, out: torch.Tensor
) -> torch.Tensor:
    """Agreement of each model with all, (n, m): competition between models."""
    if inter == "raw":
        # An overflown sum would meet a zero task value as NaN; tanh is long saturated.
        return tanh_(torch.mul(tau, sum_models(tau).nan_to_num_(), out=out))
    if inter == "normalized":
        return tanh_(torch.mul(tau, sum_models(tau.sign().mul_(u)), out=out))
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
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    room: torch.Tensor,
) -> torch.Tensor:
    """The (m,) merged task vector of a block whose (n, m) scores b are known.

    ``b`` becomes s, see `drop_and_rescale`, and ``room[0]`` is overwritten.
    """
    s = drop_and_rescale(b, tau, statistics)
    share = torch.sign(tau, out=room[0]).mul_(magnitude).mul_(s)
    if any(w != 1 for w in weight):
        share *= columns([(w,) for w in weight], tau)[0]
    return sum_models(share).div_(sum_models(s).clamp_(min=1e-12))


def drop_and_rescale(
    b: torch.Tensor, tau: torch.Tensor, statistics: Sequence[ModelStatistics]
) -> torch.Tensor:
    """Turn (n, m) scores into s: 0 up to the threshold, then rising to 1 at the top."""
    # Equal scores cannot be rescaled: those that reach the threshold share alike.
    alike = {
        i: (b[i] >= of_model.threshold) & (tau[i] != 0)
        for i, of_model in enumerate(statistics)
        if of_model.top <= of_model.threshold
    }
    threshold, span = columns(
        [(m.threshold, m.top - m.threshold) for m in statistics], b
    )
    s = b.sub_(threshold).clamp_min_(0).div_(span)
    for i, reached in alike.items():
        s[i] = reached
    return s


def sum_models(block: torch.Tensor) -> torch.Tensor:
    """Sum over the models in their order: torch.sum's own depends on the shape."""
    total = block[0].clone()
    for row in block[1:]:
        total += row
    return total


def columns(
    rows: Sequence[Sequence[float]], like: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """An (n, 1) tensor for each figure of n models, of ``like``'s dtype and device."""
    table = torch.tensor(rows, dtype=like.dtype, device=like.device)
    return table.unsqueeze(-1).unbind(1)


def tanh_(x: torch.Tensor) -> torch.Tensor:
    """Take the tanh in place, where that changes anything: it seldom does."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() < 1 << 14:
        return x.tanh_()
    flat = x.view(-1)
    values = flat.numpy()
    large = np.flatnonzero(
        (values >= _TANH_IS_IDENTITY) | (values <= -_TANH_IS_IDENTITY)
    )
    if large.size > values.size // 16:
        return x.tanh_()
    if large.size:
        where = torch.from_numpy(large)
        flat[where] = flat[where].tanh_()
    return x
