"""What collectors count and keep of a stream of blocks, against a full sort."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_pcb.kernel import (
    backends,
    numba_collector,
    numba_tiles,
    torch_backend,
)
from mergekit_pcb.kernel.collectors import DeviceCollector, NumpyCollector, RankSearch
from mergekit_pcb.kernel.formula import merge_task_vectors
from mergekit_pcb.kernel.merge import merge_one_tensor
from mergekit_pcb.kernel.numba_collector import NumbaCollector
from mergekit_pcb.kernel.order_statistics import Bracket
from mergekit_pcb.kernel.task_vectors import TaskVectors
from tests.kernel.hard_cases import ADVERSARIAL

EDGES = [0.0, -0.0, 1.0, -1.0, 2.0**-140]
numbers = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from(EDGES)

Kind = Callable[[RankSearch, int], Any]


class Compiled(NumbaCollector):
    """Counts and collects values that nothing was left out of."""

    def __init__(self, search: RankSearch, size: int) -> None:
        nothing = (math.inf, -math.inf)
        super().__init__(search, [nothing] * len(search.brackets))

    def add(self, values: torch.Tensor) -> None:
        tiles = values.split(numba_tiles.TILE, dim=1)
        flat = torch.cat([tile.flatten() for tile in tiles])
        counts = [[tile.shape[1]] * len(values) for tile in tiles]
        super().add(flat.numpy(), np.array(counts, dtype=np.int32), values.shape[1])


KINDS: dict[str, Kind] = {
    "numpy": NumpyCollector,
    "compiled": Compiled,
    "device": DeviceCollector,
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def shown(kind: Kind, bracket: Bracket, values: torch.Tensor, step: int) -> Bracket:
    """The bracket after one model's values were shown in blocks."""
    collector = kind(RankSearch.of([[bracket]]), len(values))
    for block in values.view(1, -1).split(step, dim=1):
        collector.add(block)
    seen = collector.result()
    assert seen.top == [values.max().item()]
    return seen.brackets[0][0]


@each_kind
@given(
    values=st.lists(numbers, min_size=1, max_size=60),
    sample=st.lists(numbers, min_size=2, max_size=20),
    data=st.data(),
)
def test_a_bracket_finds_its_rank_or_says_it_missed(
    kind: Kind, values: list[float], sample: list[float], data
) -> None:
    """However bad the sample that placed it, a bracket never gives a wrong value."""
    rank = data.draw(st.integers(0, len(values) - 1))
    low, high = sorted(data.draw(st.lists(st.sampled_from(sample), min_size=2))[:2])
    bracket = shown(kind, Bracket(rank, low, high), torch.tensor(values), step=7)
    truth = sorted(values)[rank]
    assert bracket.value() == (truth if low <= truth <= high else None)


@each_kind
@given(
    parts=st.lists(st.lists(numbers, min_size=1), min_size=1, max_size=5),
    data=st.data(),
)
def test_parts_of_a_stream_may_be_seen_apart(
    kind: Kind, parts: list[list[float]], data
) -> None:
    """Absorbing what others saw is the same as having seen it."""
    values = list(chain(*parts))
    a_rank = st.integers(0, len(values) - 1)
    ranks = data.draw(st.lists(st.lists(a_rank, max_size=3), min_size=1, max_size=3))
    search = RankSearch.of([[Bracket(rank) for rank in row] for row in ranks])
    for part in parts:
        collector = kind(search, len(part))
        collector.add(torch.tensor([part] * len(ranks)))
        search.absorb(collector.result())
    ordered = sorted(values)
    found = [[bracket.value() for bracket in row] for row in search.brackets]
    assert found == [[ordered[rank] for rank in row] for row in ranks]
    assert search.top == [ordered[-1]] * len(ranks)


@each_kind
@pytest.mark.parametrize("quantile", [0.0, 0.001, 0.01, 0.5, 0.9, 0.99, 0.9999])
def test_a_sample_places_a_narrow_bracket(kind: Kind, quantile: float) -> None:
    """A fair sample gives a bracket that holds the rank and little else."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(200_000, generator=generator)
    sample = values[torch.randint(len(values), (20_000,), generator=generator)]
    rank = int(quantile * len(values))
    bracket = Bracket.around(rank, len(values), sample.sort().values)
    bracket = shown(kind, bracket, values, step=30_000)
    assert bracket.value() == values.sort().values[rank]
    caught = sum(map(len, bracket.inside))
    assert caught < 0.04 * len(values)
    assert caught == pytest.approx(bracket.expected, rel=0.5, abs=500)


@each_kind
def test_a_plateau_is_counted_not_collected(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal values on a bracket's edge take no memory, however many there are."""
    monkeypatch.setattr(numba_collector, "_PENDING", 100)
    values = torch.cat([torch.zeros(10_000), torch.arange(1.0, 101.0)])
    bracket = Bracket.around(9_000, len(values), values[::3])
    bracket = shown(kind, bracket, values, step=800)
    assert bracket.value() == 0
    assert sum(map(len, bracket.inside)) <= 100


@each_kind
def test_an_edge_of_one_bracket_may_be_inside_another(kind: Kind) -> None:
    """Each value counts once for every bracket, wherever it is caught."""
    values = torch.tensor([[0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0]])
    brackets = [[Bracket(4, 0.0, 2.0), Bracket(5, 1.0, 4.0), Bracket(2, 1.0, 1.0)]]
    collector = kind(RankSearch.of(brackets), 7)
    collector.add(values)
    found = collector.result().brackets[0]
    assert [bracket.value() for bracket in found] == [2.0, 3.0, 1.0]
    assert [(b.below, b.at_low, b.at_high) for b in found] == [
        (0, 1, 2),
        (1, 2, 1),
        (1, 2, 0),
    ]


@each_kind
def test_no_bound_at_all_collects_everything(kind: Kind) -> None:
    """The bracket of last resort holds every finite value."""
    bracket = shown(kind, Bracket(2), torch.tensor([3.0, -math.pi, 7.0]), step=2)
    assert bracket.value() == 7


@each_kind
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_reaches_the_top(kind: Kind, value: float) -> None:
    """NaN is not lost among larger values, nor between parts."""
    values = torch.tensor([[1.0, value, 2.0], [1.0, 2.0, 3.0]])
    search = RankSearch.of([[Bracket(0)], [Bracket(1)]])
    for block in values.split(1, dim=1):
        collector = kind(search, 1)
        collector.add(block)
        search.absorb(collector.result())
    assert str(search.top) == str([value, 3.0])


def test_a_device_that_runs_out_of_room_says_so() -> None:
    """More values than the sample let expect are counted, and the bracket misses."""
    values = torch.arange(20_000.0)
    bracket = Bracket(10_000, 0.0, 19_999.0, expected=10.0)
    bracket = shown(KINDS["device"], bracket, values, step=3000)
    assert bracket.lost
    assert bracket.value() is None


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_a_device_merges_to_the_same_bits(
    name: str, blocks_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeps that an accelerator would make, made here."""
    tau = ADVERSARIAL[name]
    monkeypatch.setattr(torch_backend, "NumpyCollector", DeviceCollector)
    monkeypatch.setattr(backends, "numba_problem", lambda: "off")
    blocks_of(10_000)
    n = len(tau)
    merged = merge_one_tensor(TaskVectors.of(None, list(tau)), [0.1] * n, [1.0] * n)
    plain = merge_task_vectors(tau, density=[0.1] * n, weight=[1.0] * n)
    assert torch.equal(merged, plain)
