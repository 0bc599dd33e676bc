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
    if tau.numel() == 0:
        return tau.new_zeros(tau.shape[1])
    ranks = clamp_ranks(tau.shape[1], clamp)
    ranges = [[kth_smallest(row, rank) for rank in ranks] for row in tau.abs()]
    low, high = columns(ranges, tau)
    _, b = balance(tau, low, high, inter)
    statistics = [
        ModelStatistics(*extent, *competition(row, extent[1], r))
        for extent, row, r in zip(ranges, b, density, strict=True)
    ]
    return merge_block(tau, statistics, weight, inter)


def competition(
    scores: torch.Tensor, high: float, density: float
) -> tuple[float, float]:
    """Threshold t_i and top score of a model, from its (d,) scores."""
    if high == 0:
        return NOT_COMPETING
    threshold = kth_smallest(scores, threshold_rank(scores.numel(), density))
    return threshold, float(scores.max())


NOT_COMPETING = (math.inf, -math.inf)


def merge_block(
    tau: torch.Tensor,
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    inter: str,
) -> torch.Tensor:
    """The (m,) merged task vector of a block of (n, m) task vectors."""
    low, high, threshold, top = columns(statistics, tau)
    magnitude, b = balance(tau, low, high, inter)
    s = drop_and_rescale(b, tau, threshold, top)
    share = tau.sign().mul_(magnitude).mul_(s)
    share *= columns([[w] for w in weight], tau)[0]
    return sum_models(share).div_(sum_models(s).clamp_(min=1e-12))


def balance(
    tau: torch.Tensor, low: torch.Tensor, high: torch.Tensor, inter: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clamped magnitudes A and scores b = intra * inter of a block, both (n, m).

    Args:
        tau: (n, m) task vectors.
        low: (n, 1) smallest magnitudes after clamping.
        high: (n, 1) largest ones.
        inter: form of the inter-balancing, one of `INTER_FORMS`.
    """
    magnitude = tau.abs().clamp_max_(high).clamp_min_(low)
    # Equal magnitudes: u = 1. All of them 0: u = 0, nothing to compete with.
    spread = high - low
    level = spread == 0
    floor = torch.where(level, 0, low)
    spread = torch.where(level, torch.where(high == 0, 1, high), spread)
    u = (magnitude - floor).div_(spread)
    return magnitude, intra_balancing(u).mul_(inter_balancing(tau, u, inter))


def intra_balancing(u: torch.Tensor) -> torch.Tensor:
    """exp(n u^2) of (n, m) normalised magnitudes: competition within a model.

    Scores matter only up to a factor a model: beyond 80 models the exponent is
    shifted, so that it never overflows.
    """
    n = u.shape[0]
    exponent = (u * u).mul_(n)
    if n > _LARGEST_EXPONENT:
        exponent -= n - _LARGEST_EXPONENT
    return exponent.exp_()


def inter_balancing(tau: torch.Tensor, u: torch.Tensor, inter: str) -> torch.Tensor:
    """Agreement of each model with all, (n, m): competition between models."""
    if inter == "raw":
        return _tanh(tau * _finite(sum_models(tau)))
    if inter == "normalized":
        return _tanh(tau * sum_models(tau.sign() * u))
    signed = tau.sign() * u
    agreement = torch.zeros_like(signed)
    for i in range(len(signed)):
        for j in range(i, len(signed)):
            term = _tanh(signed[i] * signed[j])
            agreement[i] += term
            if j > i:
                agreement[j] += term
    return agreement


def drop_and_rescale(
    b: torch.Tensor, tau: torch.Tensor, threshold: torch.Tensor, top: torch.Tensor
) -> torch.Tensor:
    """s of (n, m) scores: 0 up to the threshold, then rising to 1 at the top score."""
    s = (b - threshold).clamp_min_(0).div_(top - threshold)
    for i in (top <= threshold).flatten().nonzero().flatten().tolist():
        # Equal scores cannot be rescaled: those that reach the threshold share alike.
        s[i] = (b[i] >= threshold[i]) & (tau[i] != 0)
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
    """One (n, 1) tensor for each figure of n models, of dtype and device of ``like``."""
    table = torch.tensor(rows, dtype=like.dtype, device=like.device)
    return table.T.unsqueeze(-1).unbind()


def _finite(total: torch.Tensor) -> torch.Tensor:
    # An overflown sum would meet a zero task value as NaN; tanh is long saturated.
    return total.nan_to_num_()


def _tanh(x: torch.Tensor) -> torch.Tensor:
    """tanh in place, where it makes a difference: of task values it seldom does."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return x.tanh_()
    flat = x.view(-1)
    large = np.flatnonzero(np.abs(flat.numpy()) >= _TANH_IS_IDENTITY)
    if large.size > flat.numel() // 16:
        return x.tanh_()
    where = torch.from_numpy(large)
    flat[where] = flat[where].tanh_()
    return x
