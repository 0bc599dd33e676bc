"""PCB-Merging's mathematics on task vectors (arXiv 2410.02396, section 3).

`merge_task_vectors` is the published algorithm. It needs two things: statistics of the
whole domain (`model_statistics`: order statistics of magnitudes, then of scores), and
arithmetic that takes one coordinate after the other (`merge_block` and what it calls).
So a large domain is merged in blocks: its statistics are found by `statistics`, which
never sorts, and the arithmetic is the same, with the same bits for every block size.

Shapes: n models, m coordinates of a block, d coordinates of the domain. A domain is
all coordinates whose magnitudes and scores are ranked together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mergekit_pcb.kernel.domain import (
    INTER_FORMS,
    Domain,
    Extent,
    ModelStatistics,
    Options,
    Scoring,
)
from mergekit_pcb.kernel.exp2_tanh import LOG2_E, exp2_, tanh_
from mergekit_pcb.kernel.order_statistics import kth_smallest, require_finite
from mergekit_pcb.kernel.sampling import sample_coordinates

# float32 ends at 2^128: exp(n u^2) is limited to 2 to the power of this, which leaves
# room for the other factors. Below the second, numbers are no longer normal.
_LARGEST_EXPONENT, LEAST_EXPONENT = 115.5, -126.0


@dataclass(frozen=True)
class InMemory:
    """A domain whose (n, d) task vectors are in memory at once; d >= 1."""

    tau: torch.Tensor

    @property
    def size(self) -> int:  # noqa: D102 as in Domain
        return self.tau.shape[1]

    @property
    def models(self) -> int:  # noqa: D102
        return self.tau.shape[0]

    def sample(self) -> torch.Tensor:  # noqa: D102
        drawn = sample_coordinates(self.size, self.models)
        return self.tau if drawn is None else self.tau[:, drawn.to(self.tau.device)]

    def order_statistics(  # noqa: D102
        self, scoring: Scoring | None, ranks: Sequence[list[int]]
    ) -> tuple[Sequence[Sequence[float]], Sequence[float]]:
        values = ranked_values(self.tau, scoring)
        top = values.amax(dim=1).tolist()
        require_finite(top)
        columns = [kth_smallest(values, column) for column in zip(*ranks, strict=True)]
        return list(zip(*columns, strict=True)), top


def merge_task_vectors(
    tau: torch.Tensor,
    *,
    density: Sequence[float],
    weight: Sequence[float],
    options: Options = Options(),  # noqa: B008 - it is immutable
) -> torch.Tensor:
    """Merge task vectors that are one domain: the whole algorithm.

    Args:
        tau: (n, d) task vectors, float32 or float64; not modified.
        density: r_i in (0, 1], the fraction of coordinates where model i competes.
        weight: w_i, scales what model i contributes, after the competition.
        options: how models compete.

    Returns:
        The (d,) merged task vector tau_m of the dtype of ``tau``.

    Raises:
        NotFiniteError: an input holds NaN or infinity.
    """
    if tau.shape[1] == 0:
        return tau.new_zeros(0)
    tau = tau.contiguous()
    found = model_statistics(InMemory(tau), [[r] for r in density], options)
    statistics = [of_model[0] for of_model in found]
    return merge_block(tau, statistics, weight, options.inter)


def model_statistics(
    domain: Domain, density: Sequence[Sequence[float]], options: Options
) -> list[list[ModelStatistics]]:
    """Exact statistics of each model on a domain of at least one coordinate.

    Args:
        domain: the coordinates that are ranked together.
        density: for each model the densities whose thresholds are wanted.
        options: how models compete.

    Returns:
        For each model, one `ModelStatistics` a density.

    Raises:
        NotFiniteError: an input holds NaN or infinity.
    """
    ends = [list(clamp_ranks(domain.size, options.clamp))] * domain.models
    limits, _ = domain.order_statistics(None, ends)
    scoring = Scoring.of(limits, options.inter)
    ranks = [[threshold_rank(domain.size, r) for r in of_model] for of_model in density]
    thresholds, top = domain.order_statistics(scoring, ranks)
    return [
        [ModelStatistics.of(low, high, threshold, largest) for threshold in of_model]
        for (low, high), of_model, largest in zip(limits, thresholds, top, strict=True)
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


def merge_block(
    tau: torch.Tensor,
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    inter: str,
) -> torch.Tensor:
    """The (m,) merged task vector of a block of (n, m) task vectors.

    Args:
        tau: contiguous, float32 or float64; not modified.
        statistics: of each model on the block's domain.
        weight: w_i of each model.
        inter: form of the inter-balancing.
    """
    scoring = Scoring.of_statistics(statistics, inter)
    tau = in_unit(tau, scoring.unit)
    magnitude, s = shares(tau, statistics, scoring)
    return in_unit(weighted_mean(tau, magnitude, s, weight), 1 / scoring.unit)


def shares(
    tau: torch.Tensor, statistics: Sequence[ModelStatistics], scoring: Scoring
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps 1 to 4: (n, m) clamped magnitudes A and shares s, of task vectors in unit.

    The unit is that of the scoring.
    """
    magnitude = clamp_magnitudes(tau, scoring.extents)
    b = scores(tau, magnitude, scoring)
    return magnitude, drop_and_rescale_(b, tau, statistics)


def contributions(
    tau: torch.Tensor, statistics: Sequence[ModelStatistics], scoring: Scoring
) -> torch.Tensor:
    """What each model adds to the merged task vector at weight 1: (n, m) c_i.

    The merged task vector is their sum times the weights, up to rounding. Both task
    vectors and contributions are in the unit of the scoring.
    """
    magnitude, s = shares(tau, statistics, scoring)
    total = sum_models(s).clamp_min_(1e-12)
    return tau.sign().mul_(magnitude).mul_(s).div_(total)


def in_unit(tau: torch.Tensor, unit: float) -> torch.Tensor:
    """Task vectors times a power of two."""
    return tau if unit == 1 else tau * unit


def ranked_values(tau: torch.Tensor, scoring: Scoring | None) -> torch.Tensor:
    """The (n, m) values that a domain ranks: magnitudes, or scores."""
    if scoring is None:
        return tau.abs()
    tau = in_unit(tau, scoring.unit)
    return scores(tau, clamp_magnitudes(tau, scoring.extents), scoring)


def clamp_magnitudes(tau: torch.Tensor, extents: Sequence[Extent]) -> torch.Tensor:
    """Step 1: (n, m) clamped magnitudes A."""
    low, high, _, _ = columns(extents, tau)
    return tau.abs().clamp_max_(high).clamp_min_(low)


def scores(
    tau: torch.Tensor, magnitude: torch.Tensor, scoring: Scoring
) -> torch.Tensor:
    """Steps 2 to 4: (n, m) scores b = intra * inter, of task vectors in its unit."""
    _, _, floor, spread = columns(scoring.extents, tau)
    u = magnitude.sub(floor).div_(spread)
    b = inter_balancing(tau, u, scoring.inter)
    return b.mul_(intra_balancing_(u))


def intra_balancing_(u: torch.Tensor) -> torch.Tensor:
    """Step 2: turn (n, m) magnitudes u into exp(n u^2): competition within a model."""
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


def inter_balancing(tau: torch.Tensor, u: torch.Tensor, inter: str) -> torch.Tensor:
    """Step 3: (n, m) agreement of each model with all: competition between models.

    Raises:
        ValueError: ``inter`` is none of `INTER_FORMS`.
    """
    if inter == "raw":
        # An overflown sum would meet a zero task value as NaN; tanh is long saturated.
        return tanh_(tau * sum_models(tau).nan_to_num_())
    if inter not in INTER_FORMS:
        raise ValueError(f"inter must be one of {INTER_FORMS}, got {inter!r}")
    signed = tau.sign().mul_(u)
    if inter == "normalized":
        return tanh_(tau * sum_models(signed))
    agreement = torch.zeros_like(tau)
    for i, row in enumerate(signed):
        for j in range(i, len(signed)):
            of_pair = tanh_(row * signed[j])
            agreement[i] += of_pair
            if j > i:
                agreement[j] += of_pair
    return agreement


def drop_and_rescale_(
    b: torch.Tensor, tau: torch.Tensor, statistics: Sequence[ModelStatistics]
) -> torch.Tensor:
    """Step 4: turn (n, m) scores into s: 0 up to the threshold, rising to 1 at the top.

    Equal scores cannot be rescaled: those that reach the threshold have s = 1.
    """
    reached = {
        i: (b[i] >= of_model.threshold) & (tau[i] != 0)
        for i, of_model in enumerate(statistics)
        if of_model.has_equal_scores
    }
    threshold, span = columns(
        [(m.threshold, m.top - m.threshold) for m in statistics], b
    )
    s = b.sub_(threshold).clamp_min_(0).div_(span)
    for i, where in reached.items():
        s[i] = where
    return s


def weighted_mean(
    tau: torch.Tensor, magnitude: torch.Tensor, s: torch.Tensor, weight: Sequence[float]
) -> torch.Tensor:
    """Step 5: (m,) merged task vector of (n, m) clamped task vectors and shares s."""
    (factor,) = columns([(w,) for w in weight], tau)
    contributions = tau.sign().mul_(magnitude).mul_(s).mul_(factor)
    return sum_models(contributions).div_(sum_models(s).clamp_min_(1e-12))


def columns(
    rows: Sequence[Sequence[float]], like: torch.Tensor
) -> Sequence[torch.Tensor]:
    """Columns of n rows as (n, 1) tensors, to compute with (n, m) tensors like that."""
    return like.new_tensor(rows).split_with_sizes([1] * len(rows[0]), dim=1)


def sum_models(block: torch.Tensor) -> torch.Tensor:
    """Sum over the models in their order: torch.sum's own depends on the shape."""
    if len(block) == 1:
        return block[0].clone()
    first, second, *others = block.unbind()
    return functools.reduce(torch.Tensor.add_, others, first + second)
