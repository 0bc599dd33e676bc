"""PCB-Merging once more, by sorting whole domains, with parts that can be left out.

The operations and their order are those of the authors' published code, in float32, so
that it gives their numbers bit for bit: `tests/experiments/test_reference.py` compares
it with outputs of that code. The kernel is written differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Parts:
    """What of the algorithm is at work.

    Attributes:
        clamp: fraction of magnitudes clamped at each end; 0 for none.
        intra: whether large task values of a model win over its small ones.
        inter: form of the inter-balancing, or ``none``.
        drop: whether scores under the threshold of the density are dropped.
        rescale: whether kept scores count as far as they exceed the threshold; else
            all that are kept count alike.
    """

    clamp: float = 0.01
    intra: bool = True
    inter: str = "raw"
    drop: bool = True
    rescale: bool = True


def merge(
    tau: torch.Tensor,
    density: float,
    parts: Parts = Parts(),
    weight: Sequence[float] | None = None,
) -> torch.Tensor:
    """Merge (n, d) float32 task vectors that are one domain.

    Args:
        tau: the task vectors.
        density: fraction of coordinates where each competes.
        parts: what of the algorithm is at work.
        weight: of each model; 1 unless given.

    Returns:
        The (d,) merged task vector at lambda 1.
    """
    n, _ = tau.shape
    magnitude = _clamped(tau.abs(), parts.clamp) if parts.clamp else tau.abs()
    values = torch.sign(tau) * magnitude
    u = _normalised(magnitude)
    scores = torch.exp(n * u**2) if parts.intra else torch.ones_like(tau)
    scores = scores * _inter(tau, u, parts.inter)
    shares = _kept(scores, density if parts.drop else 1.0, rescale=parts.rescale)
    # Where nobody moved, nobody competes.
    shares = shares * (tau != 0).any(dim=1, keepdim=True)
    if weight is not None:
        values = values * torch.tensor(weight, device=tau.device)[:, None]
    return (values * shares).sum(0) / shares.sum(0).clamp(min=1e-12)


def _clamped(magnitude: torch.Tensor, clamp: float) -> torch.Tensor:
    d = magnitude.shape[1]
    ordered = magnitude.sort(dim=1).values
    low = ordered[:, min(int(d * clamp), d - 1)]
    high = ordered[:, max(int(d * (1 - clamp) - 1), 0)]
    return torch.clamp(magnitude, low[:, None], high[:, None])


def _normalised(magnitude: torch.Tensor) -> torch.Tensor:
    low = magnitude.amin(dim=1, keepdim=True)
    high = magnitude.amax(dim=1, keepdim=True)
    spread = high - low
    equal = torch.where(high > 0, 1.0, 0.0).expand_as(magnitude)
    return torch.where(spread > 0, (magnitude - low) / spread, equal)


def _inter(tau: torch.Tensor, u: torch.Tensor, form: str) -> torch.Tensor:
    signed = torch.sign(tau) * u
    if form == "none":
        return torch.ones_like(tau)
    if form == "raw":
        return torch.tanh(tau * tau.sum(0))
    if form == "normalized":
        return torch.tanh(tau * signed.sum(0))
    assert form == "pairwise", form
    return torch.stack([torch.tanh(one * signed).sum(0) for one in signed])


def _kept(scores: torch.Tensor, density: float, *, rescale: bool) -> torch.Tensor:
    d = scores.shape[1]
    rank = min(int(d * (1 - density)), d - 1)
    threshold = scores.sort(dim=1).values[:, rank : rank + 1]
    top = scores.amax(dim=1, keepdim=True)
    reached = (scores >= threshold).float()
    if not rescale:
        return reached
    above = torch.maximum(scores, threshold) - threshold
    return torch.where(top > threshold, above / (top - threshold), reached)
