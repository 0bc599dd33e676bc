"""PCB-Merging once more: float64, plain sorting, no tricks, to compare results with.

Written from the paper's steps and not from `kernel.formula`, so that the two
can only agree if both are right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

# What a few float32 roundings do to a score, for each model: exp turns the absolute
# error of its exponent, which may be as large as n, into a relative one.
_ROUNDINGS = 4 * 2.0**-23

PerModel = float | Sequence[float]
Chosen = float | Callable[[str, int], float]


class Merged(NamedTuple):
    """What one tensor becomes.

    Attributes:
        delta: (d,) merged task vector, before lambda.
        error: (d,) what roundings of the scores in float32 may do to it, where two
            models share a coordinate and neither is far above its threshold.
        borderline: (d,) where they may decide otherwise who competes, because a score
            is within a few roundings of its threshold.
    """

    delta: np.ndarray
    error: np.ndarray
    borderline: np.ndarray


def merge(
    tau: np.ndarray,
    density: PerModel,
    weight: PerModel = 1.0,
    *,
    inter: str = "raw",
    clamp: float = 0.01,
) -> Merged:
    """Merge the (n, d) task vectors of a tensor that is a domain of its own."""
    (merged,) = merge_domain([tau], [density], [weight], inter=inter, clamp=clamp)
    return merged


def merge_domain(
    taus: Sequence[np.ndarray],
    densities: Sequence[PerModel],
    weights: Sequence[PerModel],
    *,
    inter: str = "raw",
    clamp: float = 0.01,
) -> list[Merged]:
    """Merge tensors that are one domain; each may have densities of its own.

    Args:
        taus: the (n, d_k) task vectors of each tensor.
        densities: for each tensor one r, or one a model.
        weights: likewise w.
        inter: `raw`, `normalized` or `pairwise`.
        clamp: c.
    """
    tau = np.concatenate([np.asarray(part, np.float64) for part in taus], axis=1)
    n, d = tau.shape
    if d == 0:
        return [Merged(np.zeros(0), np.zeros(0), np.zeros(0, bool)) for _ in taus]
    magnitude = np.stack([_clamp(row, clamp) for row in np.abs(tau)])
    u = np.stack([_normalise(row) for row in magnitude])
    b = np.exp(n * u**2) * _inter(tau, u, inter)
    # The same without cancellation: what rounding errors are proportional to.
    reach = np.exp(n * u**2) * _inter(np.abs(tau), u, inter)

    merged, start = [], 0
    for part, density, weight in zip(taus, densities, weights, strict=True):
        here = slice(start, start + part.shape[1])
        start = here.stop
        r, w = np.broadcast_to(density, n), np.broadcast_to(weight, n)
        s, s_error = np.zeros((2, n, part.shape[1]))
        borderline = np.zeros(part.shape[1], bool)
        for i in range(n):
            if not magnitude[i].any():
                continue
            t = np.sort(b[i])[min(int(d * (1 - r[i])), d - 1)]
            s[i] = _rescale(b[i], t, tau[i])[here]
            slack = n * _ROUNDINGS * (reach[i][here] + abs(t))
            borderline |= np.abs(b[i][here] - t) <= slack
            if b[i].max() > t:
                s_error[i] = np.where(s[i] > 0, slack / (b[i].max() - t), 0)
        share = w[:, None] * np.sign(tau[:, here]) * magnitude[:, here]
        total = np.maximum(s.sum(axis=0), 1e-12)
        delta = (share * s).sum(axis=0) / total
        error = (np.abs(share - delta) * s_error).sum(axis=0) / total
        merged.append(Merged(delta, error, borderline))
    return merged


def _clamp(magnitude: np.ndarray, c: float) -> np.ndarray:
    s, d = np.sort(magnitude), len(magnitude)
    return np.clip(magnitude, s[int(d * c)], s[int(d * (1 - c) - 1)])


def _normalise(magnitude: np.ndarray) -> np.ndarray:
    low, high = magnitude.min(), magnitude.max()
    if low == high:
        return np.full_like(magnitude, float(high != 0))
    return (magnitude - low) / (high - low)


def _inter(tau: np.ndarray, u: np.ndarray, form: str) -> np.ndarray:
    signed = np.sign(tau) * u
    if form == "raw":
        return np.tanh(tau * tau.sum(axis=0))
    if form == "normalized":
        return np.tanh(tau * signed.sum(axis=0))
    assert form == "pairwise", form
    return np.stack([np.tanh(row * signed).sum(axis=0) for row in signed])


def _rescale(b: np.ndarray, t: float, tau: np.ndarray) -> np.ndarray:
    if b.max() > t:
        return (np.maximum(b, t) - t) / (b.max() - t)
    return ((b >= t) & (tau != 0)).astype(float)


def task_vectors(base: torch.Tensor, models: Sequence[torch.Tensor]) -> np.ndarray:
    """The (n, d) task vectors, subtracted in float32 as the method promises."""
    wide = torch.promote_types(base.dtype, torch.float32)
    tau = [(model.to(wide) - base.to(wide)).flatten() for model in models]
    return torch.stack(tau).double().numpy()


def count_flips(
    out: torch.Tensor,
    base: torch.Tensor,
    merged: Merged,
    *,
    scale: float = 1.0,
    name: str = "tensor",
) -> int:
    """Compare a merged tensor with base + scale * delta; flips are not yet judged.

    Allowed are the rounding to the dtypes of ``base``, in which the merge was done, and
    ``out``, 1e-6 of the largest change, and the error of the scores.

    Returns:
        How many coordinates differ by more; they are all borderline.
    """
    assert out.shape == base.shape, name
    expected = base.double().numpy().ravel() + scale * merged.delta
    error = np.abs(out.double().numpy().ravel() - expected)
    assert np.isfinite(error).all(), name
    largest = np.abs(scale * merged.delta).max(initial=0.0)
    allowed = 1e-6 * largest + abs(scale) * merged.error
    for limits in (torch.finfo(base.dtype), torch.finfo(out.dtype)):
        allowed = allowed + 0.505 * limits.eps * np.maximum(
            np.abs(expected), limits.smallest_normal
        )
    off = error > allowed
    wrong = off & ~merged.borderline
    assert not wrong.any(), (
        f"{name}: {wrong.sum()} of {off.size} coordinates differ by up to "
        f"{error[wrong].max():.3g}, the largest change is {largest:.3g}"
    )
    return int(off.sum())


def assert_merge(
    out: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
    models: Sequence[Mapping[str, torch.Tensor]],
    *,
    density: Chosen = 0.2,
    weight: Chosen = 1.0,
    scale: Chosen | None = None,
    dtype: torch.dtype | None = None,
    scope: str = "tensor",
    **options: str | float,
) -> None:
    """Compare a merged model with the oracle, tensor by tensor.

    Args:
        out: the merged model; it must have exactly the tensors of ``base``.
        base: the base model.
        models: the fine-tunes. One that lacks a tensor takes no part there, but has
            left it untouched if the domain is the whole model.
        density, weight: one number, or a function of tensor name and model index.
        scale: lambda; one number, or a function of tensor name and 0. None: `auto`
            of each tensor by itself, all of whose coordinates were looked at.
        dtype: of the merge, if the recipe sets one.
        scope: `tensor` or `model`.
        options: `inter` and `clamp`.
    """
    assert out.keys() == base.keys()
    bases = {name: tensor.to(dtype or tensor.dtype) for name, tensor in base.items()}
    taus, densities, weights = [], [], []
    for name, tensor in bases.items():
        here = [
            i for i, model in enumerate(models) if name in model or scope == "model"
        ]
        tuned = [models[i].get(name, tensor) for i in here]
        taus.append(task_vectors(tensor, [x.to(dtype or x.dtype) for x in tuned]))
        densities.append([_chosen(density, name, i) for i in here])
        weights.append([_chosen(weight, name, i) for i in here])
    if scope == "model":
        merged = merge_domain(taus, densities, weights, **options)
    else:
        inputs = zip(taus, densities, weights, strict=True)
        merged = [merge(*of_tensor, **options) for of_tensor in inputs]
    flips = 0
    for (name, tensor), each, tau, of_tensor in zip(
        bases.items(), merged, taus, weights, strict=True
    ):
        lam = "auto" if scale is None else _chosen(scale, name, 0)
        lambdas = _automatic(each, tau, of_tensor) if lam == "auto" else [lam]
        for last, lam in zip(
            [*[False] * (len(lambdas) - 1), True], lambdas, strict=True
        ):
            try:
                flips += count_flips(out[name], tensor, each, scale=lam, name=name)
                break
            except AssertionError:
                if last:
                    raise
    # Every model has one score at its threshold in every domain: a code that let them
    # in would flip most of those.
    assert flips <= 2, f"{flips} borderline coordinates flipped"


def automatic(tau: np.ndarray, merged: np.ndarray) -> float:
    """The lambda at which a merged task vector keeps p of the (n, d) task vectors.

    Args:
        tau: task vectors.
        merged: (d,) merged task vector at lambda 1, all of whose weights are positive.
    """
    squares = (tau**2).sum(axis=1)
    moved = squares > 0
    p = min(0.7 * (3 / max(moved.sum(), 1)) ** 0.5, 1)
    projection = ((tau @ merged)[moved] / squares[moved]).mean() if moved.any() else 0
    return min(max(p / projection, 0.25), 4.0) if projection > 0 else 1.0


def _automatic(merged: Merged, tau: np.ndarray, weight: Sequence[float]) -> list[float]:
    """The lambda of `auto`, to the digits it has; both where it is between two."""
    assert min(weight) > 0
    mean = float(np.mean(weight))
    exact = automatic(tau, merged.delta / mean) / mean
    return sorted({float(f"{exact * f:.4g}") for f in (1 - 4e-6, 1, 1 + 4e-6)})


def _chosen(setting: Chosen, name: str, model: int) -> float:
    return setting(name, model) if callable(setting) else setting
