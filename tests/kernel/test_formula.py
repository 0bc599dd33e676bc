"""The mathematics, on small tensors whose results can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mergekit_pcb.kernel.domain import INTER_FORMS, Options
from mergekit_pcb.kernel.formula import (
    clamp_ranks,
    inter_balancing,
    intra_balancing_,
    merge_task_vectors,
    sum_models,
    threshold_rank,
)


def merge(tau: object, **parameters) -> list[float]:
    tau = torch.as_tensor(tau)
    options = {k: parameters.pop(k) for k in ("inter", "clamp") if k in parameters}
    for name, default in (("density", 0.5), ("weight", 1.0)):
        parameters.setdefault(name, [default] * len(tau))
    return merge_task_vectors(tau, options=Options(**options), **parameters).tolist()


def test_one_model_by_hand() -> None:
    """Density one half of four coordinates keeps two; the threshold itself drops."""
    # u = 0, 1/3, 2/3, 1; the threshold is the score of rank int(4 * 0.5) = 2, so
    # only the largest is left, alone: it enters with its whole value.
    assert merge([[0.1, -0.2, 0.3, -0.4]], clamp=0.0) == pytest.approx([0, 0, 0, -0.4])


def test_two_models_by_hand() -> None:
    """Where both compete, shares are the rescaled scores."""
    tau = torch.tensor([[1.0, 2.0, 4.0], [1.0, 4.0, 2.0]])
    total = tau.sum(0)
    u = torch.tensor([[0, 1 / 3, 1], [0, 1, 1 / 3]])
    b = torch.exp(2 * u**2) * torch.tanh(tau * total)
    s = (b - b[0, 0]) / (b.max() - b[0, 0])
    by_hand = (tau * s).sum(0) / s.sum(0).clamp(min=1e-12)
    assert merge(tau, density=[1, 1], clamp=0.0) == pytest.approx(by_hand.tolist())


@pytest.mark.parametrize("inter", INTER_FORMS)
def test_an_untouched_model_does_not_compete(inter: str) -> None:
    """A task vector of zeros neither contributes nor dilutes."""
    tau = torch.randn(1, 200, generator=torch.Generator().manual_seed(0))
    both = torch.cat([tau, torch.zeros_like(tau)])
    merged = merge_task_vectors(
        both, density=[0.1] * 2, weight=[1.0] * 2, options=Options(inter)
    )
    kept = merged != 0
    assert 0 < kept.sum() <= 20
    # Alone where it survives, the model enters with its clamped value, undiluted.
    ceiling = tau.abs().sort().values[0, int(200 * 0.99 - 1)]
    assert torch.allclose(merged[kept], tau[0, kept].clamp(-ceiling, ceiling))


@pytest.mark.parametrize("inter", INTER_FORMS)
def test_equal_magnitudes_share_alike(inter: str) -> None:
    """Equal scores are all kept where they reach the threshold: here everywhere."""
    assert merge([[0.5, -0.5, 0.5]], inter=inter) == pytest.approx([0.5, -0.5, 0.5])
    assert merge([[0.5, 0.5], [0.5, 0.5]], inter=inter) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("inter", INTER_FORMS)
def test_opposite_models_leave_the_base(inter: str) -> None:
    """Where two models want the opposite with equal strength, neither wins."""
    tau = torch.randn(1, 50, generator=torch.Generator().manual_seed(3))
    merged = merge(torch.cat([tau, -tau]), inter=inter, density=[0.2, 0.2])
    assert max(map(abs, merged)) < 1e-6


@pytest.mark.parametrize("inter", INTER_FORMS)
@pytest.mark.parametrize("value", [3.0, -2.0, 0.0])
def test_one_element(value: float, inter: str) -> None:
    """A tensor of one element is kept as it is, whatever the density."""
    assert merge([[value]], inter=inter, density=[0.01]) == [value]


def test_no_element() -> None:
    """An empty tensor merges to an empty tensor."""
    assert merge(torch.empty(3, 0)) == []


def test_almost_all_zero_does_not_compete() -> None:
    """Where clamping leaves only zeros there is nothing to contribute."""
    tau = torch.zeros(2, 1000)
    tau[0, 5] = 7.0
    assert merge(tau, density=[0.1, 0.1]) == [0.0] * 1000


def test_inputs_are_not_modified() -> None:
    """The task vectors are the same afterwards, bit by bit."""
    tau = torch.randn(3, 100, generator=torch.Generator().manual_seed(2))
    before = tau.clone()
    for inter in INTER_FORMS:
        merge(tau, inter=inter)
    assert torch.equal(tau, before)


@pytest.mark.parametrize("inter", ["", "Raw", "pair-wise"])
def test_an_unknown_form_is_an_error(inter: str) -> None:
    """No form of the inter-balancing is taken for another."""
    with pytest.raises(ValueError, match="inter must be one of"):
        inter_balancing(torch.ones(2, 3), torch.ones(2, 3), inter)
    with pytest.raises(ValueError, match="inter must be one of"):
        merge([[0.1, 0.2], [0.3, 0.4]], inter=inter)


def test_many_models_do_not_overflow() -> None:
    """exp(n u^2) ends at 88 models in float32; a hundred still merge."""
    tau = torch.randn(100, 300, generator=torch.Generator().manual_seed(4))
    assert np.isfinite(merge(tau, density=[0.1] * 100)).all()
    assert intra_balancing_(torch.ones(200, 1)).isfinite().all()


def test_huge_task_values_do_not_become_nan() -> None:
    """A sum beyond float32 saturates instead of meeting a zero as NaN."""
    tau = [[2e38, 3e38, 0.0], [2e38, 0.0, 3e38]]
    merged = merge(tau, density=[1.0, 1.0], clamp=0.0)
    assert np.isfinite(merged).all()


@pytest.mark.parametrize(
    ("size", "clamp", "ranks"),
    [
        (1000, 0.01, (10, 989)),
        (1000, 0.0001, (0, 998)),
        (1000, 0.0, (0, 999)),
        (1, 0.01, (0, 0)),
        (2, 0.01, (0, 0)),
        (3, 0.49, (0, 0)),
    ],
)
def test_clamp_ranks(size: int, clamp: float, ranks: tuple[int, int]) -> None:
    """The published index arithmetic, kept inside the smallest domains."""
    assert clamp_ranks(size, clamp) == ranks


@pytest.mark.parametrize(
    ("size", "density", "rank"),
    [(10, 0.1, 9), (10, 1.0, 0), (10, 0.2, 8), (1, 0.5, 0), (7, 1e-20, 6)],
)
def test_threshold_rank(size: int, density: float, rank: int) -> None:
    """Density is the kept fraction; the rank never leaves the domain."""
    assert threshold_rank(size, density) == rank


def test_models_are_summed_in_order() -> None:
    """The sum over models does not depend on how many coordinates there are."""
    block = torch.randn(37, 1000, generator=torch.Generator().manual_seed(5))
    each = torch.stack([sum_models(block[:, k : k + 1])[0] for k in range(1000)])
    assert torch.equal(sum_models(block), each)
    total = 0.0
    for row in block[:, 0].tolist():
        total = float(np.float32(total) + np.float32(row))
    assert each[0].item() == total
    assert math.isfinite(total)
