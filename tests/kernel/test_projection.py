"""`lambda: auto`: projections of the task vectors, and the lambda they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_pcb.kernel import torch_backend
from mergekit_pcb.kernel.backends import backend_for
from mergekit_pcb.kernel.domain import Options
from mergekit_pcb.kernel.formula import InMemory, merge_block, model_statistics
from mergekit_pcb.kernel.merge import merge_one_tensor
from mergekit_pcb.kernel.projection import (
    TARGET_PROJECTION,
    auto_lambda,
    projections,
)
from mergekit_pcb.kernel.sampling import sample_coordinates
from mergekit_pcb.kernel.task_vectors import TaskVectors
from tests import oracle


def vectors(n: int, d: int, size: float = 1e-3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) ** 3 * size


def projected(
    tau: torch.Tensor, density: float = 0.2, inter: str = "raw", backend=None
) -> list[float]:
    found = model_statistics(
        InMemory(tau), [[density]] * len(tau), Options(inter=inter)
    )
    statistics = [of_model[0] for of_model in found]
    backend = backend or backend_for(TaskVectors(tau[0], list(tau)), inter)
    return projections(backend, tau, statistics, inter)


@pytest.mark.parametrize("inter", ["raw", "normalized", "pairwise"])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_projection_is_that_of_the_merge(n: int, inter: str) -> None:
    """The sum of w_j k_j is the mean of <tau_m, tau_i> / |tau_i|^2, for any weights."""
    tau = vectors(n, 3000)
    weight = [0.5 + i for i in range(n)]
    wide = tau.double().numpy()
    merged = oracle.merge(wide, 0.2, weight, inter=inter).delta
    expected = ((wide @ merged) / (wide**2).sum(axis=1)).mean()
    found = np.dot(projected(tau, inter=inter), weight)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-39])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 7), (2, 100), (3, 1024), (8, 5001)])
def test_backends_give_the_same_bits(n: int, d: int, size: float) -> None:
    """Compiled loops add up in the order of numpy, also in another unit."""
    tau = vectors(n, d, size)
    assert projected(tau) == projected(tau, backend=torch_backend)


def test_models_that_did_not_move_do_not_count() -> None:
    """They have no direction to keep; if nobody moved, all is 0, and lambda 1."""
    tau = vectors(3, 500)
    tau[1] = 0
    k = projected(tau)
    assert k[1] == 0
    two = projected(tau[[0, 2]])
    # The steepness of the scores depends on the number of models, so only nearly.
    assert sum(k) == pytest.approx(sum(two), rel=0.1)
    nobody = projected(torch.zeros(2, 50))
    assert nobody == [0, 0]
    assert auto_lambda(nobody, [1, 1]) == 1


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=8),
    st.floats(-8, 8).filter(lambda x: abs(x) > 0.01),
    st.data(),
)
def test_a_common_factor_changes_nothing(
    k: list[float], factor: float, data: st.DataObject
) -> None:
    """Lambda times a weight stays, to four digits, whatever all weights are times."""
    weight = data.draw(
        st.lists(st.floats(0.1, 3), min_size=len(k), max_size=len(k)), "weight"
    )
    once = auto_lambda(k, weight)
    scaled = auto_lambda(k, [factor * w for w in weight])
    assert scaled * abs(factor) == pytest.approx(once, rel=2e-3)


@pytest.mark.parametrize(
    ("k", "weight", "expected"),
    [
        ([0.2, 0.2, 0.2], [1, 1, 1], TARGET_PROJECTION / 0.6),
        ([0.2, 0.2, 0.2], [0.5, 0.5, 0.5], TARGET_PROJECTION / 0.3),
        # A model that is subtracted does not make the others larger.
        ([0.2, 0.2, 0.2], [1, -1, 1], TARGET_PROJECTION / 0.6),
        ([0.1] * 12, [1] * 12, TARGET_PROJECTION / 2 / 1.2),  # p goes as 1 / sqrt(n)
        ([0.8], [1], 1 / 0.8),  # and is never above 1
        # Neither a model that did not move nor one without weight counts.
        ([0.2, 0.2, 0, 0.2], [1, 1, 1, 1], TARGET_PROJECTION / 0.6),
        ([0.2, 0.2, 0.5, 0.2], [1, 1, 0, 1], TARGET_PROJECTION / 0.6),
        ([0.01, 0.01], [1, 1], 4),  # bounded
        ([50, 50], [1, 1], 0.25),
        ([-0.1, -0.2], [1, 1], 1),  # not positive
        ([0, 0], [2, 2], 0.5),
        ([0.3, 0.3], [0, 0], 1),  # no weight: any lambda will do
    ],
)
def test_auto_lambda(k: list[float], weight: list[float], expected: float) -> None:
    """Its definition, its bounds, and degenerate cases."""
    assert auto_lambda(k, weight) == pytest.approx(expected, rel=1e-3)


def test_lambda_has_four_digits() -> None:
    """So a recipe can repeat it, with the same bits."""
    tau = vectors(3, 2000)
    tensor = TaskVectors(torch.zeros(2000), list(tau))
    seen: list[float] = []

    def note(k: list[float]) -> float:
        seen.append(auto_lambda(k, [1, 1, 1]))
        return seen[-1]

    density, weight = [0.2] * 3, [1.0] * 3
    automatic = merge_one_tensor(tensor, density, weight, scale=note)
    (chosen,) = seen
    assert chosen == float(f"{chosen:.4g}")
    again = merge_one_tensor(tensor, density, weight, scale=chosen)
    assert torch.equal(automatic, again)


@pytest.mark.parametrize("block", [1 << 12, 1 << 30])
@pytest.mark.parametrize("threads", [1, 4])
def test_blocks_and_threads_change_nothing(
    block: int, threads: int, blocks_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor that is sampled has the same projections, however it is worked on."""
    tau = vectors(2, 50_000)
    drawn = sample_coordinates(50_000, 2)
    assert drawn is not None
    found = model_statistics(InMemory(tau), [[0.2]] * 2, Options())
    expected = projections(
        torch_backend, tau[:, drawn], [of_model[0] for of_model in found], "raw"
    )
    blocks_of(block)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    seen: list[float] = []
    merge_one_tensor(
        TaskVectors(None, list(tau)),
        [0.2] * 2,
        [1.0] * 2,
        scale=lambda k: seen.extend(k) or 1.0,
    )
    assert seen == expected


def test_a_sample_is_near_the_whole() -> None:
    """On heavy tails, within a few percent of what all coordinates give."""
    tau = vectors(3, 200_000)
    found = model_statistics(InMemory(tau), [[0.2]] * 3, Options())
    statistics = [of_model[0] for of_model in found]
    merged = merge_block(tau, statistics, [1.0] * 3, "raw").double()
    wide = tau.double()
    exact = ((wide @ merged) / (wide**2).sum(dim=1)).mean()
    sample = InMemory(tau).sample()
    assert sample.shape[1] == 1 << 14
    assert sum(projections(torch_backend, sample, statistics, "raw")) == pytest.approx(
        exact.item(), rel=0.08
    )
