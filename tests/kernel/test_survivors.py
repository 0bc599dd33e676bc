"""What is screened out, kept or recomputed leaves no trace in the merged tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_pcb.kernel import (
    backends,
    numba_backend,
    numba_compact,
    order_statistics,
    survivors,
)
from mergekit_pcb.kernel.domain import ModelStatistics, Options, Scoring
from mergekit_pcb.kernel.formula import merge_block, model_statistics, ranked_values
from mergekit_pcb.kernel.merge import merge_one_tensor, merge_tensor
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.kernel.survivors import KeptSurvivors
from mergekit_pcb.kernel.task_vectors import TaskVectors
from tests.kernel.hard_cases import heavy_tailed

pytestmark = pytest.mark.skipif(
    bool(backends.numba_problem()), reason="there are no compiled loops"
)

SIZE = 60_001


def fine_tunes(
    tau: torch.Tensor, base: torch.Tensor, dtype: torch.dtype = torch.bfloat16
) -> TaskVectors:
    models = [(base.float() + row).to(dtype) for row in tau]
    return TaskVectors.of(base.to(dtype), models)


def ordinary(n: int = 3, factor: float = 1.0) -> TaskVectors:
    base = heavy_tailed(1, SIZE, seed=7)[0]
    return fine_tunes(factor * heavy_tailed(n, SIZE), base)


def on_torch(
    vectors: TaskVectors, density: list[float], weight: list[float], scale: float
) -> torch.Tensor:
    """The merge by torch's operations, which keep nothing."""
    domain = TensorDomain([vectors])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "numba_problem", lambda: "off")
        found = [row[0] for row in model_statistics(domain, column(density), Options())]
        return merge_tensor(vectors, found, weight, scale=scale)


def column(density: list[float]) -> list[list[float]]:
    return [[r] for r in density]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def minus_zeros_in_the_base() -> TaskVectors:
    base = heavy_tailed(1, SIZE, seed=7)[0]
    base[::7] = -0.0
    tau = heavy_tailed(3, SIZE)
    tau[:, ::3] *= -0.0
    return fine_tunes(tau, base)


def mixed_dtypes() -> TaskVectors:
    base = heavy_tailed(1, SIZE, seed=7)[0].bfloat16()
    first, second = heavy_tailed(2, SIZE)
    return TaskVectors.of(base, [base.float() + first, (base + second).half()])


def sparse(share: float) -> TaskVectors:
    """Thresholds of zero: most task values are zero."""
    tau = heavy_tailed(3, SIZE) * (torch.rand(SIZE) < share)
    return fine_tunes(tau, torch.zeros(SIZE))


CASES: dict[str, Callable[[], TaskVectors]] = {
    "ordinary": ordinary,
    "saturating tanh": lambda: ordinary(factor=1000.0),
    "tiny": lambda: fine_tunes(2.0**-60 * heavy_tailed(3, SIZE), torch.zeros(SIZE)),
    "one range is tiny": lambda: fine_tunes(
        heavy_tailed(3, SIZE) * torch.tensor([[1.0], [2.0**-110], [1.0]]),
        torch.zeros(SIZE),
    ),
    "-0 in the base": minus_zeros_in_the_base,
    "cut at zero": lambda: sparse(0.05),
    "equal scores": lambda: fine_tunes(torch.full((2, SIZE), 0.25), torch.ones(SIZE)),
    "two scores": lambda: fine_tunes(
        torch.where(heavy_tailed(3, SIZE) > 0, 2.0**-9, -(2.0**-8)), torch.zeros(SIZE)
    ),
    "one did not move": lambda: fine_tunes(
        heavy_tailed(3, SIZE) * torch.tensor([[1.0], [0.0], [1.0]]), torch.zeros(SIZE)
    ),
    "float32": lambda: fine_tunes(
        heavy_tailed(3, SIZE), heavy_tailed(1, SIZE, 7)[0], torch.float32
    ),
    "float16": lambda: fine_tunes(
        heavy_tailed(3, SIZE), heavy_tailed(1, SIZE, 7)[0], torch.float16
    ),
    "mixed dtypes": mixed_dtypes,
    "strides": lambda: TaskVectors.of(
        torch.ones(SIZE), list(heavy_tailed(3, 2 * SIZE)[:, ::2])
    ),
    "many models": lambda: ordinary(n=90),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "many models" else [])
        for name in CASES
    ],
)
def test_screening_leaves_no_trace(name: str, blocks_of) -> None:
    """Whatever survives, the bits are those of torch's operations on everything."""
    vectors = CASES[name]()
    blocks_of(40_000)
    n = len(vectors.models)
    for density, weight, scale in (
        ([0.1] * n, [1.0] * n, 1.0),
        ([0.2, *[0.4] * (n - 1)], [-0.5, *[2.0] * (n - 1)], 1.7),
        ([1.0] * n, [0.0, *[1.0] * (n - 1)], -1.0),
    ):
        merged = merge_one_tensor(vectors, density, weight, scale=scale)
        assert same_bits(merged, on_torch(vectors, density, weight, scale))


@pytest.mark.parametrize("budget", [0, 30_000, 100_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_budget_that_is_exceeded_costs_no_bit(
    budget: int, threads: int, blocks_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks beyond the budget are read again, whatever thread works on them."""
    vectors, before = ordinary(), torch.get_num_threads()
    expected = on_torch(vectors, [0.2] * 3, [1.0] * 3, 1.0)
    blocks_of(20_000)
    monkeypatch.setattr(survivors, "BUDGET", budget)
    monkeypatch.setattr(survivors, "_spare", [])
    used = []
    original = KeptSurvivors.at

    def counted(self: KeptSurvivors, *arguments):
        used.append(original(self, *arguments))
        return used[-1]

    monkeypatch.setattr(KeptSurvivors, "at", counted)
    torch.set_num_threads(threads)
    try:
        merged = merge_one_tensor(vectors, [0.2] * 3, [1.0] * 3)
    finally:
        torch.set_num_threads(before)
    assert same_bits(merged, expected)
    kept = [found for found in used if found is not None]
    assert len(kept) < len(used)
    assert bool(kept) == (budget > 0)
    assert sum(part.nbytes for found in kept for part in found[:3]) <= budget


def test_all_is_kept_within_the_budget(
    blocks_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge then reads no model again, and gets about the density's share."""
    vectors = ordinary()
    blocks_of(20_000)
    keeper = KeptSurvivors(np.empty(survivors.BUDGET, dtype=np.uint8))
    domain = TensorDomain([vectors], kept=keeper)
    found = [row[0] for row in model_statistics(domain, [[0.2]] * 3, Options())]
    scoring = Scoring.of_statistics(found, "raw")
    spans = vectors.spans(numba_backend.BLOCK)
    kept = [keeper.at(span, scoring, found) for span in spans]
    assert len(kept) > 1
    count = sum(int(block.counts.sum()) for block in kept if block is not None)
    assert 0.2 < count / (3 * SIZE) < 0.25
    monkeypatch.setattr(numba_backend.numba_loops, "survivors", None)
    merged = merge_tensor(vectors, found, [1.0] * 3, kept=keeper)
    assert same_bits(merged, on_torch(vectors, [0.2] * 3, [1.0] * 3, 1.0))


def test_other_statistics_use_nothing_that_was_kept(blocks_of) -> None:
    """A lower threshold, or another scoring, needs scores that were screened out."""
    vectors = ordinary()
    blocks_of(20_000)
    keeper = KeptSurvivors(np.empty(survivors.BUDGET, dtype=np.uint8))
    domain = TensorDomain([vectors], kept=keeper)
    model_statistics(domain, [[0.1]] * 3, Options())
    for density, clamp in ((0.3, 0.01), (0.1, 0.2)):
        other = model_statistics(
            TensorDomain([vectors]), [[density]] * 3, Options(clamp=clamp)
        )
        found = [row[0] for row in other]
        span = vectors.spans(numba_backend.BLOCK)[0]
        scoring = Scoring.of_statistics(found, "raw")
        assert keeper.at(span, scoring, found) is None
        merged = merge_tensor(vectors, found, [1.0] * 3, kept=keeper)
        assert same_bits(merged, merge_tensor(vectors, found, [1.0] * 3))


@pytest.mark.parametrize("sigmas", [0.0, 0.3])
def test_a_missed_bracket_keeps_nothing_wrong(
    sigmas: float, blocks_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier sweep kept is not that of all models."""
    vectors = ordinary()
    expected = on_torch(vectors, [0.1, 0.2, 0.4], [1.0] * 3, 1.0)
    blocks_of(20_000)
    monkeypatch.setattr(order_statistics, "_SIGMAS", sigmas)
    assert same_bits(merge_one_tensor(vectors, [0.1, 0.2, 0.4], [1.0] * 3), expected)


@given(
    n=st.integers(1, 100),
    factor=st.sampled_from([1e-12, 1.0, 30.0, 1e5]),
    density=st.sampled_from([0.02, 0.1, 0.5, 0.9]),
    clamp=st.sampled_from([0.0, 0.01, 0.45]),
    seed=st.integers(0, 1000),
)
def test_no_score_at_its_cut_is_screened_out(
    n: int, factor: float, density: float, clamp: float, seed: int
) -> None:
    """The cheap bound is a bound: all scores from the threshold on survive."""
    tau = factor * heavy_tailed(n, 3000, seed)
    vectors = TaskVectors.of(torch.zeros(3000), list(tau))
    domain = TensorDomain([vectors])
    found = model_statistics(domain, [[density]] * n, Options(clamp=clamp))
    statistics = [row[0] for row in found]
    scoring = Scoring.of_statistics(statistics, "raw")
    screen = numba_backend._screen(scoring, [m.threshold for m in statistics])
    worker = numba_backend._Worker(vectors)
    survived = worker.survivors(slice(0, 3000), screen).counts.sum(axis=0)
    everything = ranked_values(tau, scoring)
    for count, row, of_model in zip(survived, everything, statistics, strict=True):
        assert count >= (row >= of_model.threshold).sum()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000, 2048])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_compaction_lists_where_the_mask_is_set(size: int, share: float) -> None:
    """By the plain loop, and by what this processor has."""
    generator = np.random.default_rng(size)
    mask = np.full(size + 64, -1, dtype=np.int32)
    mask[:size] = -(generator.random(size) < share).astype(np.int32)
    expected = np.flatnonzero(mask[:size])
    for compact in (numba_compact.compact, numba_compact._compact_plain):
        indices = np.empty(size + 64, dtype=np.int32)
        count = compact(mask.copy(), size, indices)
        assert indices[:count].tolist() == expected.tolist()


def test_a_threshold_is_never_minus_zero() -> None:
    """It is found among equal values, by a sort or in a sweep, and zeros show it."""
    assert str(ModelStatistics.of(0.0, 1.0, -0.0, 1.0).threshold) == "0.0"


def test_a_block_is_merged_as_formula_says(blocks_of) -> None:
    """Also without going through the torch backend."""
    tau = heavy_tailed(3, SIZE)
    vectors = TaskVectors.of(torch.zeros(SIZE), list(tau))
    blocks_of(20_000)
    domain = TensorDomain([vectors])
    found = [row[0] for row in model_statistics(domain, [[0.2]] * 3, Options())]
    expected = merge_block(tau, found, [1.0] * 3, "raw")
    assert torch.equal(merge_one_tensor(vectors, [0.2] * 3, [1.0] * 3), expected)
