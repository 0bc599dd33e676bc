"""Order statistics against a full sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_pcb.kernel.order_statistics import kth_smallest

EDGES = [0.0, -0.0, 1.0, -1.0, 2.0**-140]
numbers = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from(EDGES)


@given(st.lists(numbers, min_size=1, max_size=50), st.data())
def test_kth_smallest_is_what_sorting_finds(values: list[float], data) -> None:
    """Any rank of any list, ties and denormals included."""
    rank = data.draw(st.integers(0, len(values) - 1))
    assert kth_smallest(torch.tensor([values]), [rank]) == [sorted(values)[rank]]


@pytest.mark.parametrize("size", [4096, 1 << 14, 20_000])
def test_kth_smallest_of_many(size: int) -> None:
    """Each row has a rank of its own."""
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
