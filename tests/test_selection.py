"""Order statistics against a full sort."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_pcb.selection import Bracket, kth_smallest, observe

EDGES = [0.0, -0.0, 1.0, -1.0, 2.0**-140]
numbers = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from(EDGES)


@given(st.lists(numbers, min_size=1, max_size=50), st.data())
def test_kth_smallest_is_what_sorting_finds(values: list[float], data) -> None:
    """Any rank of any list, ties and denormals included."""
    rank = data.draw(st.integers(0, len(values) - 1))
    assert kth_smallest(torch.tensor([values]), [rank]) == [sorted(values)[rank]]


@pytest.mark.parametrize("size", [4096, 4097, 20_000])
def test_kth_smallest_of_many(size: int) -> None:
    """Small and large inputs take different routes to the same value."""
    values = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    ordered = values.sort().values
    for one, other in ((0, 0), (size // 3, size - 1), (size - 1, size // 2)):
        expected = [ordered[0, one].item(), ordered[1, other].item()]
        assert kth_smallest(values, [one, other]) == expected


@pytest.mark.parametrize("rank", [-1, 3])
def test_no_such_rank(rank: int) -> None:
    """A rank outside the values is an error, not the nearest value."""
    with pytest.raises(IndexError, match="of 3 values"):
        kth_smallest(torch.zeros(1, 3), [rank])


@given(
    st.lists(numbers, min_size=1, max_size=60),
    st.lists(numbers, min_size=1, max_size=20),
    st.sampled_from([-1, 0, 1]),
    st.data(),
)
def test_a_bracket_finds_its_rank_or_says_it_missed(
    values: list[float], sample: list[float], tail: int, data
) -> None:
    """However bad the sample that placed it, a bracket never gives a wrong value."""
    rank = data.draw(st.integers(0, len(values) - 1))
    low, high = sorted(data.draw(st.lists(st.sampled_from(sample), min_size=2))[:2])
    bracket = Bracket(rank, low, high, tail=tail)
    for start in range(0, len(values), 7):
        observe([bracket], torch.tensor(values[start : start + 7]))
    truth = sorted(values)[rank]
    assert bracket.value() == (truth if low <= truth <= high else None)


@given(st.lists(st.lists(numbers, min_size=1), min_size=1, max_size=5), st.data())
def test_parts_of_a_stream_may_be_seen_apart(parts: list[list[float]], data) -> None:
    """Absorbing what others saw is the same as having seen it."""
    values = list(chain(*parts))
    ranks = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))
    brackets = [Bracket(rank) for rank in ranks]
    for part in parts:
        elsewhere = [bracket.fresh() for bracket in brackets]
        observe(elsewhere, torch.tensor(part))
        for bracket, seen in zip(brackets, elsewhere, strict=True):
            bracket.absorb(seen)
    assert [b.value() for b in brackets] == [sorted(values)[r] for r in ranks]


@pytest.mark.parametrize("quantile", [0.0, 0.001, 0.01, 0.5, 0.9, 0.99, 0.9999])
def test_a_sample_places_a_narrow_bracket(quantile: float) -> None:
    """A fair sample gives a bracket that holds the rank and little else."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(200_000, generator=generator)
    sample = values[torch.randint(len(values), (20_000,), generator=generator)]
    rank = int(quantile * len(values))
    bracket = Bracket.around(rank, len(values), sample)
    observe([bracket], values)
    assert bracket.value() == values.sort().values[rank]
    caught = sum(map(len, bracket.inside))
    assert caught < 0.04 * len(values)
    assert caught == pytest.approx(bracket.expected, rel=0.5, abs=500)


def test_a_plateau_is_counted_not_collected() -> None:
    """Equal values on a bracket's edge take no memory, however many there are."""
    values = torch.cat([torch.zeros(10_000), torch.arange(1.0, 101.0)])
    bracket = Bracket.around(9_000, len(values), values[::3])
    observe([bracket], values)
    assert bracket.value() == 0
    assert sum(map(len, bracket.inside)) <= 100


def test_no_bound_at_all_collects_everything() -> None:
    """The bracket of last resort holds every finite value."""
    bracket = Bracket(2)
    observe([bracket], torch.tensor([3.0, -math.pi, 7.0]))
    assert bracket.value() == 7
