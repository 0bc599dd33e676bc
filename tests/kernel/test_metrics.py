"""Metrics of task vectors, on tensors small enough to work them out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mergekit_pcb.kernel.domain import ModelStatistics, Options
from mergekit_pcb.kernel.formula import model_statistics
from mergekit_pcb.kernel.merge import merge_tensor
from mergekit_pcb.kernel.metrics import (
    Competition,
    Metrics,
    measure,
    measure_block,
    total,
)
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.kernel.task_vectors import TaskVectors

# Magnitudes are normalised to themselves, and score exp(2) tanh(2) is the highest.
TERMS = ModelStatistics(
    low=0.0, high=1.0, threshold=1.0, top=math.exp(2) * math.tanh(2)
)
ONE = [1.0, 0.5, 0.0, 1.0]
TWO = [0.0, 0.5, 1.0, 1.0]


def metrics_of(
    *tau: list[float], competitions: tuple[Competition, ...] = (), **more: int
) -> Metrics:
    block = torch.tensor(tau)
    base = torch.full((block.shape[1],), 2.0)
    return measure_block(block, base, competitions, **more)


def test_norms_and_cosine() -> None:
    """Norms 5 and sqrt 20, inner product -16; the base is 2, 2, 2, 2."""
    found = metrics_of([3.0, 4.0, 0.0, 0.0], [0.0, -4.0, 0.0, 2.0])
    assert found.weights == 4
    assert found.base_square == 16
    assert found.norms() == pytest.approx([5, math.sqrt(20)])
    assert found.cosines()[0] == pytest.approx([1, -16 / (5 * math.sqrt(20))])
    # The mean is 1.5, 0, 0, 1.
    assert found.mean_square == pytest.approx(3.25)


def test_signs_disagree_only_where_two_models_meet() -> None:
    """Of the coordinates that two of three models change, signs disagree at half."""
    found = metrics_of([1.0, 2, 0, 3, 0], [1.0, -2, 5, 0, 0], [0.0, 2, 0, 0, 0])
    assert (found.contested, found.conflicting) == (2, 1)
    assert found.conflict_share() == 0.5
    assert metrics_of([1.0, 0.0], [0.0, 1.0]).conflict_share() is None


def test_an_untouched_model_has_no_cosine() -> None:
    """A model that is the base has norm 0, and no direction."""
    found = metrics_of([1.0, 1.0], [0.0, 0.0])
    assert found.norms()[1] == 0
    assert found.cosines() == [[pytest.approx(1), None], [None, None]]


def test_who_keeps_and_who_wins() -> None:
    """Each model has one coordinate alone, and the same score at the last."""
    competition = Competition([0, 1], [TERMS, TERMS], [1.0, 1.0])
    found = metrics_of(ONE, TWO, competitions=(competition,))
    (outcome,) = found.outcomes
    # exp(1/2) tanh(1/2) = 0.76 at the second coordinate is below the threshold.
    assert outcome.kept.tolist() == [2, 2]
    assert outcome.keepers.tolist() == [1, 2, 1]
    assert outcome.shares() == (0.25, 0.5, 0.25)
    assert outcome.kept_shares() == [0.5, 0.5]
    assert (outcome.wins.tolist(), outcome.tied) == ([1, 1], 1)
    assert outcome.win_shares() == pytest.approx([1 / 3, 1 / 3])
    assert outcome.tied_share() == pytest.approx(1 / 3)
    # 1, 0, 1, 1 over 0.5, 0.5, 0.5, 1.
    assert found.merged_over_mean(outcome) == pytest.approx(math.sqrt(3 / 1.75))


def test_weight_and_lambda_change_the_norm_and_no_winner() -> None:
    """Weights 2 and 1 make it 2, 0, 1, 1.5; lambda 2 doubles that."""
    plain = Competition([0, 1], [TERMS, TERMS], [1.0, 1.0])
    weighted = Competition([0, 1], [TERMS, TERMS], [2.0, 1.0])
    scaled = Competition([0, 1], [TERMS, TERMS], [2.0, 1.0], scale=2.0)
    first, second, third = metrics_of(
        ONE, TWO, competitions=(plain, weighted, scaled)
    ).outcomes
    assert second.merged_square == pytest.approx(4 + 1 + 2.25)
    assert third.merged_square == pytest.approx(4 * (4 + 1 + 2.25))
    assert first.wins.tolist() == second.wins.tolist() == third.wins.tolist()


def test_the_larger_share_wins() -> None:
    """At the last coordinate the second model's score is the higher one."""
    lower = TERMS._replace(top=10.0)
    (outcome,) = metrics_of(
        ONE, TWO, competitions=(Competition([0, 1], [lower, TERMS], [1.0, 1.0]),)
    ).outcomes
    assert (outcome.wins.tolist(), outcome.tied) == ([1, 2], 0)


def test_a_model_without_the_tensor() -> None:
    """It keeps and wins nothing, and does not count in the mean."""
    competition = Competition([1], [TERMS._replace(top=2.0)], [1.0])
    found = metrics_of([0.0, 0.0], [1.0, 0.0], competitions=(competition,), present=1)
    (outcome,) = found.outcomes
    assert outcome.kept.tolist() == [0, 1]
    assert outcome.keepers.tolist() == [1, 1, 0]
    assert outcome.wins.tolist() == [0, 1]
    assert found.merged_over_mean(outcome) == pytest.approx(1)


def test_nobody_keeps_anything() -> None:
    """Then nobody wins, and the merge adds nothing."""
    idle = ModelStatistics.of(0.0, 0.0, 0.0, 0.0)
    found = metrics_of(
        [0.0, 0.0], [0.0, 0.0], competitions=(Competition([0, 1], [idle] * 2, [1, 1]),)
    )
    (outcome,) = found.outcomes
    assert outcome.shares() == (1, 0, 0)
    assert outcome.win_shares() is None
    assert outcome.tied_share() is None
    assert found.merged_over_mean(outcome) is None


def test_blocks_add_up(blocks_of) -> None:
    """Swept in blocks or at once, the figures are those of the merged task vector."""
    generator = torch.Generator().manual_seed(0)
    tau = torch.randn(3, 40_000, generator=generator) ** 3 * 1e-3
    base = torch.randn(40_000, generator=generator).bfloat16()
    vectors = TaskVectors.of(base, list(tau + base))
    each = model_statistics(TensorDomain([vectors]), [[0.1, 0.3]] * 3, Options())
    competitions = []
    for k in (0, 1):
        statistics = [of_model[k] for of_model in each]
        competitions.append(
            Competition(range(3), statistics, [1.0, 0.5, 2.0], scale=1.5)
        )
    blocks_of(9_000)
    swept = measure(vectors, competitions)
    block = vectors.between(slice(0, vectors.size))
    whole = measure_block(block, base, competitions)
    np.testing.assert_allclose(swept.dots, whole.dots)
    assert swept.mean_square == pytest.approx(
        block.double().mean(0).square().sum().item()
    )
    for competition, outcome, other in zip(
        competitions, swept.outcomes, whole.outcomes, strict=True
    ):
        merged = merge_tensor(
            TaskVectors.of(None, list(block)),
            competition.statistics,
            competition.weight,
        )
        norm = 1.5 * merged.double().norm().item()
        assert math.sqrt(outcome.merged_square) == pytest.approx(norm)
        assert outcome.keepers[0] == (merged == 0).sum()
        assert outcome.keepers.tolist() == other.keepers.tolist()
        assert outcome.wins.tolist() == other.wins.tolist()


def test_heavy_tails_give_the_known_ratio() -> None:
    """Two random models: a merge at density 0.1 is 1.4 times the mean, not 4e-6."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2, 2, 500_000, generator=generator)
    vectors = TaskVectors.of(None, list(1e-3 * normal[0] * normal[1].exp()))
    each = model_statistics(TensorDomain([vectors]), [[0.1]] * 2, Options())
    found = measure(vectors, [Competition([0, 1], [s[0] for s in each], [1.0, 1.0])])
    assert found.merged_over_mean(found.outcomes[0]) == pytest.approx(1.4, abs=0.05)


def test_parts_add_up() -> None:
    """Two tensors together are as one."""
    competition = Competition([0, 1], [TERMS, TERMS], [1.0, 1.0])
    apart = [
        metrics_of(ONE[:2], TWO[:2], competitions=(competition,)),
        metrics_of(ONE[2:], TWO[2:], competitions=(competition,)),
    ]
    together, whole = total(apart), metrics_of(ONE, TWO, competitions=(competition,))
    assert together.weights == 4
    assert together.cosines() == whole.cosines()
    assert together.outcomes[0].shares() == whole.outcomes[0].shares()
    assert together.outcomes[0].tied == whole.outcomes[0].tied
