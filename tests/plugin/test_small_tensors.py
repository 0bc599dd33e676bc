"""Small tensors that the passes of `scope: model` load once leave no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mergekit.scripts import run_yaml

from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.plugin import small_tensors, statistics_file
from mergekit_pcb.plugin.small_tensors import SmallTensors
from tests.tiny import assert_same, merge, read, recipe_of, save_family

MODEL = {"scope": "model"}


def vectors(size: int, dtype: torch.dtype = torch.float32) -> TaskVectors:
    base = torch.arange(size).to(dtype)
    return TaskVectors.of(base, [base + 1, base * 2])


@pytest.mark.parametrize("most", [0, 100, 1 << 16])
@pytest.mark.parametrize("budget", [1000, 1 << 26])
def test_merges_have_the_same_bits(
    most: int, budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all, some or none of the tensors kept, lambda: auto among the results."""
    base, tuned = save_family(tmp_path)
    recipe = recipe_of(base, tuned, parameters=MODEL)
    expected, _ = merge(run_yaml.main, recipe, tmp_path / "expected")
    statistics_file._cache.clear()
    monkeypatch.setattr(small_tensors, "_MOST", most)
    monkeypatch.setattr(small_tensors, "_BUDGET", budget)
    merged, _ = merge(run_yaml.main, recipe, tmp_path / "merged")
    assert_same(read(merged), read(expected))


def test_tensors_are_joined_by_dtype() -> None:
    """Base and models stay in step, whatever is kept between them."""
    small = SmallTensors()
    small.keep("a", vectors(3))
    small.keep("b", vectors(2, torch.bfloat16))
    small.keep("c", vectors(4))
    float32, bfloat16 = small.task_vectors()
    assert small.names == {"a", "b", "c"}
    assert float32.base.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert float32.models[0].tolist() == [1, 2, 3, 1, 2, 3, 4]
    assert float32.models[1].tolist() == [0, 2, 4, 0, 2, 4, 6]
    assert bfloat16.base.dtype == bfloat16.models[1].dtype == torch.bfloat16
    assert bfloat16.size == 2


def test_a_dtype_of_which_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With very many models one tensor may be too much."""
    monkeypatch.setattr(small_tensors, "_BUDGET", 3 * 4 * 5)
    small = SmallTensors()
    small.keep("a", vectors(6))
    assert small.task_vectors() == []
    small.keep("b", vectors(4))
    assert [each.size for each in small.task_vectors()] == [4]


def test_what_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large, not finite, known already or beyond the budget is left out."""
    monkeypatch.setattr(small_tensors, "_MOST", 10)
    monkeypatch.setattr(small_tensors, "_BUDGET", 3 * 4 * 15)
    small = SmallTensors()
    damaged = vectors(4)
    damaged.models[1][2] = torch.nan
    for name, tensor in (
        ("large", vectors(11)),
        ("damaged", damaged),
        ("first", vectors(10)),
        ("first", vectors(4)),
        ("too much", vectors(6)),
        ("second", vectors(5)),
    ):
        small.keep(name, tensor)
    assert small.names == {"first", "second"}
    (kept,) = small.task_vectors()
    assert kept.size == 15
