"""The sweeps give the bits of the plain form, however they go about it."""

from __future__ import annotations

import functools
import sys
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mergekit_pcb.kernel import (
    backends,
    merge,
    numba_backend,
    order_statistics,
    statistics,
    task_vectors,
    torch_backend,
)
from mergekit_pcb.kernel.collectors import RankSearch
from mergekit_pcb.kernel.domain import INTER_FORMS, Options, Scoring
from mergekit_pcb.kernel.errors import NotFiniteError, OverflowedError
from mergekit_pcb.kernel.formula import merge_task_vectors, model_statistics
from mergekit_pcb.kernel.merge import merge_one_tensor, merge_tensor
from mergekit_pcb.kernel.order_statistics import Bracket
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.kernel.task_vectors import TaskVectors, in_parallel
from tests.kernel.hard_cases import ADVERSARIAL, heavy_tailed


def plain(tau: torch.Tensor, density: float, inter: str = "raw") -> torch.Tensor:
    n = len(tau)
    return merge_task_vectors(
        tau, density=[density] * n, weight=[1.0] * n, options=Options(inter)
    )


def with_base(tau: torch.Tensor) -> TaskVectors:
    """Task vectors as models of a base of zeros: compiled loops want a base."""
    return TaskVectors.of(torch.zeros_like(tau[0]), list(tau))


def swept(tau: torch.Tensor, density: float, inter: str = "raw") -> torch.Tensor:
    n = len(tau)
    return merge_one_tensor(
        with_base(tau), [density] * n, [1.0] * n, options=Options(inter)
    )


# Without the compiled loops, everything is tested on torch alone.
BACKENDS = ["torch"] if backends.numba_problem() else ["torch", "numba"]


@pytest.fixture(autouse=True, params=BACKENDS)
def computed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with and without the compiled loops."""
    if request.param == "torch":
        monkeypatch.setattr(backends, "numba_problem", lambda: "off")


@pytest.fixture
def threads():
    """Sets torch's threads for a test only."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("inter", INTER_FORMS)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_blocks_leave_no_trace(name: str, inter: str, blocks_of) -> None:
    """Swept in blocks, the result is bit by bit that of the whole tensor at once."""
    tau = ADVERSARIAL[name]
    for density in (0.05, 0.1, 0.7, 1.0):
        expected = plain(tau, density, inter)
        blocks_of(3000)
        assert torch.equal(swept(tau, density, inter), expected)
        assert expected.isfinite().all()


@pytest.mark.parametrize("block", [192, 1000, 12_345, 1 << 18])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_block_size_and_threads_leave_no_trace(
    block: int, count: int, threads, blocks_of
) -> None:
    """Any block size on any number of threads gives the same bits."""
    tau = heavy_tailed(3, 50_001)
    expected = plain(tau, 0.1)
    threads(count)
    blocks_of(block)
    assert torch.equal(swept(tau, 0.1), expected)
    assert torch.get_num_threads() == count


@pytest.mark.parametrize("count", [1, 2, 3, 4, 64])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_memory_does_not_grow_with_threads_or_models(
    n: int, count: int, threads
) -> None:
    """All workers together have at most two blocks in hand."""
    threads(count)
    vectors = TaskVectors.of(None, list(torch.zeros(n, 90_000)))
    largest = vectors.spans(20_000)[0].stop
    assert 0.8 * 20_000 < largest * n * max(vectors.workers, 2) / 2 <= 20_000


@pytest.mark.parametrize("count", [2, 4])
def test_all_workers_work_at_once(threads, count: int) -> None:
    """As many as torch may use threads; each waits here until all have begun."""
    threads(count)
    all_there = threading.Barrier(count)

    def work(spans) -> int:
        next(spans)
        all_there.wait(10)
        return threading.get_ident()

    found = in_parallel(with_base(heavy_tailed(3, 300_000)), 20_000, work)
    assert len(set(found)) == count


def test_threads_yet_to_come_keep_their_setting(threads) -> None:
    """One thread a worker is not left behind as the default of later threads."""
    threads(3)
    swept(heavy_tailed(3, 300_000), 0.1)
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3]


def test_an_error_waits_for_the_other_workers(threads) -> None:
    """What they write to may be used again as soon as the error is raised."""
    threads(3)
    begun, working = threading.Event(), []

    def work(spans) -> None:
        next(spans)
        if threading.current_thread() is threading.main_thread():
            begun.wait(10)
            raise OverflowedError
        working.append(True)
        begun.set()
        time.sleep(0.1)
        working.pop()

    with pytest.raises(OverflowedError):
        in_parallel(with_base(heavy_tailed(3, 300_000)), 20_000, work)
    assert begun.is_set()
    assert not working


def test_threads_stay_but_not_in_another_process() -> None:
    """A forked process has no threads but the one that forked."""
    assert task_vectors._pool(2, 1) is task_vectors._pool(2, 1)
    assert task_vectors._pool(2, 1) is not task_vectors._pool(2, 2)


@pytest.mark.parametrize("sigmas", [0.0, 0.3])
def test_missed_brackets_are_noticed(
    sigmas: float, blocks_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets too narrow to hold their rank cost another sweep, not the result."""
    tau = heavy_tailed(3, 60_000)
    blocks_of(9000)
    searches = []
    original = TensorDomain.sweep

    def counted(self: TensorDomain, *arguments) -> None:
        searches.append(arguments)
        original(self, *arguments)

    monkeypatch.setattr(TensorDomain, "sweep", counted)
    monkeypatch.setattr(order_statistics, "_SIGMAS", sigmas)
    assert torch.equal(swept(tau, 0.1), plain(tau, 0.1))
    assert len(searches) > 2


def test_a_misleading_sample_is_noticed(
    blocks_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that has nothing to do with the values still ends in the exact ones."""
    tau = heavy_tailed(2, 40_000)
    blocks_of(8000)
    original = TensorDomain.sample
    monkeypatch.setattr(TensorDomain, "sample", lambda self: original(self)[:, :5] * 50)
    assert torch.equal(swept(tau, 0.1), plain(tau, 0.1))


def test_many_models_are_collected_in_turns(
    blocks_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not all brackets fit in memory at once, the result stays the same."""
    tau = heavy_tailed(12, 20_000)
    blocks_of(12_000)
    monkeypatch.setattr(
        statistics, "TensorDomain", functools.partial(TensorDomain, capacity=1000)
    )
    monkeypatch.setattr(merge, "TensorDomain", statistics.TensorDomain)
    assert torch.equal(swept(tau, 0.1), plain(tau, 0.1))


def test_two_sweeps_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of ordinary task vectors read every value twice."""
    sweeps_made = []
    original = TensorDomain.sweep
    monkeypatch.setattr(
        TensorDomain,
        "sweep",
        lambda self, *args: (sweeps_made.append(1), original(self, *args))[1],
    )
    domain = TensorDomain([with_base(heavy_tailed(3, 400_000))])
    model_statistics(domain, [[0.1]] * 3, Options())
    assert len(sweeps_made) == 2


@given(
    n=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    density=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    inter=st.sampled_from(INTER_FORMS),
    clamp=st.sampled_from([0.0, 0.01, 0.4]),
    seed=st.integers(0, 1000),
)
@example(n=4, sizes=[21], density=0.01, inter="raw", clamp=0.4, seed=823)
def test_tensors_of_a_domain_merge_as_one(
    n: int, sizes: list[int], density: float, inter: str, clamp: float, seed: int
) -> None:
    """Tensor by tensor with the domain's statistics is the domain at once."""
    tau = heavy_tailed(n, sum(sizes), seed).round(decimals=seed % 3 + 3)
    tensors = [with_base(part) for part in tau.split(sizes, dim=1)]
    options = Options(inter, clamp)
    found = model_statistics(TensorDomain(tensors), [[density]] * n, options)
    weight = [1.0] * n
    merged = [
        merge_tensor(t, [row[0] for row in found], weight, inter=inter) for t in tensors
    ]
    at_once = merge_task_vectors(
        tau, density=[density] * n, weight=weight, options=options
    )
    assert torch.equal(torch.cat(merged), at_once)


def test_each_model_may_have_several_densities() -> None:
    """One look at the domain serves all densities that its tensors ask for."""
    domain = TensorDomain([with_base(heavy_tailed(2, 5000))])
    together = model_statistics(domain, [[0.1, 0.5], [0.2]], Options())
    alone = [model_statistics(domain, [[r], [0.2]], Options()) for r in (0.1, 0.5)]
    assert together == [[alone[0][0][0], alone[1][0][0]], [alone[0][1][0]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_merged_in_float32(dtype: torch.dtype) -> None:
    """Small deltas of half-precision models survive being multiplied."""
    base = torch.randn(2000, generator=torch.Generator().manual_seed(0)).to(dtype)
    models = [(base.float() + row).to(dtype) for row in 10 * heavy_tailed(3, 2000)]
    tau = torch.stack([model.float() - base.float() for model in models])
    merged = merge_one_tensor(TaskVectors.of(base, models), [0.1] * 3, [1.0] * 3)
    assert merged.dtype == dtype
    assert torch.equal(merged, (base.float() + plain(tau, 0.1)).to(dtype))
    assert not torch.equal(merged, base)


def test_double_precision_stays_double() -> None:
    """float64 models are merged in float64."""
    tau = heavy_tailed(2, 1000).double()
    assert torch.equal(swept(tau, 0.2), plain(tau, 0.2))
    assert swept(tau, 0.2).dtype == torch.float64


def test_weights_and_lambda_are_linear() -> None:
    """Weights and lambda scale contributions and decide nothing."""
    tau = heavy_tailed(2, 3000)
    vectors = TaskVectors.of(torch.zeros(3000), list(tau))

    def merged(weight: list[float], scale: float = 1.0) -> np.ndarray:
        return merge_one_tensor(vectors, [0.1] * 2, weight, scale=scale).numpy()

    first, second = merged([1, 0]), merged([0, 1])
    np.testing.assert_allclose(merged([2, -3]), 2 * first - 3 * second, atol=1e-8)
    np.testing.assert_allclose(merged([1, 1], 1.5), 1.5 * (first + second), atol=1e-8)


def test_shapes_and_strides_do_not_matter() -> None:
    """A transposed tensor merges to what its contiguous copy merges to."""
    tau = heavy_tailed(3, 6000).view(3, 60, 100)
    turned = TaskVectors.of(None, [row.T for row in tau])
    copied = TaskVectors.of(None, [row.T.contiguous() for row in tau])
    parameters = ([0.1] * 3, [1.0] * 3)
    assert torch.equal(
        merge_one_tensor(turned, *parameters), merge_one_tensor(copied, *parameters)
    )


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(size: int, value: float, blocks_of) -> None:
    """NaN and infinity are an error, wherever in the tensor they are."""
    blocks_of(10_000)
    tau = heavy_tailed(2, size)
    tau[1, size * 2 // 3] = value
    with pytest.raises(NotFiniteError, match="task vector 1"):
        swept(tau, 0.1)


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.bfloat16, 3e38), (torch.float16, 1e5), (torch.float32, 1e39)],
)
def test_a_result_that_is_not_finite_is_refused(
    size: int, dtype: torch.dtype, scale: float, blocks_of
) -> None:
    """Finite inputs whose merge overflows its dtype are an error, not infinity."""
    blocks_of(10_000)
    base = torch.ones(size, dtype=dtype)
    models = list((base + heavy_tailed(2, size).clamp(-3, 3)).to(dtype))
    vectors = TaskVectors.of(base, models)
    assert merge_one_tensor(vectors, [0.1] * 2, [1.0] * 2).isfinite().all()
    with pytest.raises(OverflowedError):
        merge_one_tensor(vectors, [0.1] * 2, [1.0] * 2, scale=100 * scale)


@pytest.mark.parametrize("inter", INTER_FORMS)
@pytest.mark.parametrize("size", [100, 100_000])
def test_tiny_task_values_are_ranked_like_others(
    size: int, inter: str, blocks_of
) -> None:
    """Products of task values around 1e-30 do not underflow to equal scores."""
    blocks_of(10_000)
    tau = (2.0**-50 * heavy_tailed(3, size)).clamp(-(2.0**-41), 2.0**-41)
    expected = swept(tau, 0.1, inter)
    assert 0.1 < (expected != 0).double().mean() < 0.3
    assert torch.equal(swept(2.0**-50 * tau, 0.1, inter), 2.0**-50 * expected)
    assert torch.equal(plain(2.0**-50 * tau, 0.1, inter), 2.0**-50 * expected)
    double = tau.double()
    expected = swept(double, 0.1, inter)
    assert torch.equal(swept(2.0**-900 * double, 0.1, inter), 2.0**-900 * expected)
    denormal = swept(torch.tensor([[3e-42, 1e-42, 2e-42, 0.0] * 25]), 0.1, inter)
    assert 0 < (denormal != 0).sum() <= 25


def test_several_merges_at_a_time_do_not_meet() -> None:
    """Merges in several threads, as with several GPUs, share no state."""
    taus = [heavy_tailed(3, 200_000, seed) for seed in range(4)]
    expected = [plain(tau, 0.1) for tau in taus]
    results: list[torch.Tensor | None] = [None] * 4

    def work(index: int) -> None:
        results[index] = swept(taus[index], 0.1)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(map(torch.equal, results, expected))


@given(
    n=st.integers(1, 5),
    size=st.integers(1, 2500),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    weight=st.sampled_from([1.0, -0.5, 0.0]),
    factor=st.sampled_from([1.0, 30.0, 1e-30, 1e30]),
    seed=st.integers(0, 1000),
)
@example(n=100, size=100, dtype=torch.float32, weight=1.0, factor=1.0, seed=1)
def test_compiled_loops_give_the_bits_of_the_operations(
    n: int, size: int, dtype: torch.dtype, weight: float, factor: float, seed: int
) -> None:
    """Scores and merges, rounding and signs of zeros included."""
    tau = factor * heavy_tailed(n, size, seed).round(decimals=seed % 4 + 2)
    tau[:, ::5] = -0.0
    base = heavy_tailed(1, size, seed + 1)[0].to(dtype)
    models = [(base + row).to(dtype).clamp(-6e4, 6e4) for row in tau]
    vectors = TaskVectors.of(base, models)
    some = size - size // 3
    spans = [slice(0, some), slice(some, size)][: size // 3 + 1]
    domain = TensorDomain([vectors])
    found = model_statistics(domain, [[0.2]] * n, Options())
    of_models = [of_model[0] for of_model in found]
    scoring = Scoring.of_statistics(of_models, "raw")
    seen, merged = [], []
    for by in (torch_backend, numba_backend):
        for values in (None, scoring):
            everything = RankSearch.of([[Bracket(0)] for _ in range(n)])
            search = by.collect(vectors, values, everything, iter(spans))
            seen.append([torch.cat(row[0].inside) for row in search.brackets])
        out = torch.empty_like(base)
        by.merge(vectors, of_models, [weight] * n, 0.7, "raw", out, iter(spans))
        merged.append(out)
    assert all(
        map(same_bits, seen[0] + seen[1] + merged[:1], seen[2] + seen[3] + merged[1:])
    )


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("numba is missing", "numba is not installed"),
        ("MERGEKIT_PCB_NUMBA=0", "switched off by MERGEKIT_PCB_NUMBA=0"),
        ("NUMBA_DISABLE_JIT=1", "switched off by NUMBA_DISABLE_JIT"),
    ],
)
def test_without_numba_nothing_is_compiled(
    how: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then torch does the work, with neither an error nor interpreted loops."""
    monkeypatch.undo()
    backends.numba_problem.cache_clear()
    monkeypatch.delenv("MERGEKIT_PCB_NUMBA", raising=False)
    if how == "numba is missing":
        monkeypatch.setitem(sys.modules, "numba", None)
    elif how == "MERGEKIT_PCB_NUMBA=0":
        monkeypatch.setenv("MERGEKIT_PCB_NUMBA", "0")
    else:
        monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    for module in [name for name in sys.modules if ".kernel.numba_" in name]:
        monkeypatch.delitem(sys.modules, module)
        monkeypatch.delattr(module)
    assert problem in backends.numba_problem()
    vectors = TaskVectors.of(torch.zeros(100), list(heavy_tailed(2, 100)))
    assert backends.backend_for(vectors, "raw") is torch_backend
    monkeypatch.undo()
    backends.numba_problem.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heavy tails", "two values", "99 % zeros"])
def test_more_than_sixteen_million_elements(name: str) -> None:
    """Beyond 2^24 elements, where torch.quantile gives up, results are still exact."""
    small = ADVERSARIAL[name][:2]
    noise = heavy_tailed(2, (1 << 24) + 12_345, seed=9)
    tau = small.repeat(1, noise.shape[1] // small.shape[1] + 1)[:, : noise.shape[1]]
    tau = tau + noise if name == "heavy tails" else tau.contiguous()
    assert torch.equal(swept(tau, 0.1), plain(tau, 0.1))
