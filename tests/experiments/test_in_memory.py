"""Merging in memory, projections, and the study of lambda."""

from __future__ import annotations

import pytest
import torch

from experiments import auto_lambda, in_memory
from experiments.flat_merge import of_files
from mergekit_pcb.kernel.formula import merge_task_vectors

BASE = {"a": torch.zeros(2, 2), "b": torch.ones(3), "still": torch.ones(2)}
MODELS = [
    {"a": torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "b": torch.ones(3) * 2},
    {"a": torch.tensor([[0.0, 1.0], [0.0, 0.0]]), "b": torch.ones(3) * 3},
]
MODELS = [{**model, "still": torch.ones(2)} for model in MODELS]


def test_projection_is_what_is_kept_of_each_model() -> None:
    """By hand: the merged one is the first model's, with half of the second's."""
    tau = in_memory.task_vectors(BASE, MODELS)
    merged = {
        "a": torch.tensor([[3.0, 0.5], [0.0, 4.0]]),
        "b": torch.ones(3),
        "still": torch.zeros(2),
    }
    found = in_memory.projections(merged, tau)
    assert found.own == pytest.approx({"a": (1 + 0.5) / 2, "b": (1 + 0.5) / 2})
    # Inner products 25 + 3 and 0.5 + 6, squares 25 + 3 and 1 + 12.
    assert found.one == pytest.approx((1 + 6.5 / 13) / 2)


def test_auto_scale_aims_at_the_target() -> None:
    """The projection times lambda is the target, for each tensor or for all."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (40, 20), "b": (300,), "c": (30, 30)}
    tau = {
        name: list(torch.randn(3, *shape, generator=generator))
        for name, shape in shapes.items()
    }
    merged = {name: sum(vectors) / 3 for name, vectors in tau.items()}
    found = in_memory.projections(merged, tau)
    scale = in_memory.auto_scale(merged, tau)
    products = [scale[name] * found.own[name] for name in scale]
    assert products == pytest.approx([products[0]] * 3, rel=1e-3)
    (whole,) = set(in_memory.auto_scale(merged, tau, whole=True).values())
    assert whole * found.one == pytest.approx(products[0], rel=1e-3)


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_merged_in_memory_as_by_the_formula(scope: str) -> None:
    """Tensors ranked apart or together, in their shapes."""
    generator = torch.Generator().manual_seed(1)
    tau = {
        "a": list(torch.randn(3, 20, 30, generator=generator)),
        "b": list(torch.randn(3, 50, generator=generator) * 3),
    }
    merged = in_memory.merged_task_vector(tau, 0.2, scope=scope)
    flat = {name: torch.stack([v.flatten() for v in vs]) for name, vs in tau.items()}
    how = {"density": [0.2] * 3, "weight": [1.0] * 3}
    if scope == "tensor":
        expected = torch.cat([merge_task_vectors(t, **how) for t in flat.values()])
    else:
        expected = merge_task_vectors(torch.cat(list(flat.values()), 1), **how)
    assert merged["a"].shape == (20, 30)
    torch.testing.assert_close(
        torch.cat([merged["a"].flatten(), merged["b"]]), expected
    )


def test_task_sets_are_of_every_size() -> None:
    """From two to all, and those of one size differ."""
    sets = auto_lambda.task_sets(("a", "b", "c", "d"), 2)
    assert [len(tasks) for tasks in sets] == [2, 2, 3, 3, 4]
    assert len(set(sets)) == len(sets)
    assert auto_lambda.task_sets(("a", "b"), 1) == [("a", "b")]


def test_losses_are_against_the_best() -> None:
    """In points where high is good, in thousandths where low is."""
    assert auto_lambda.losses({"scores": [70.0, 72.0]}, True) == [2.0, 0.0]
    lost = auto_lambda.losses({"scores": [1.502, 1.5]}, False)
    assert lost == pytest.approx([2.0, 0.0])


def test_table_of_losses_averages_cases() -> None:
    """The last line of a kind is the mean over all its cases."""
    cases = []
    for density, best in ((0.1, 5), (0.2, 7)):
        case = {"kind": "tensor one", "tasks": ["a", "b"], "density": density}
        scores = [60.0] * len(auto_lambda.P)
        scores[best] = 64.0
        cases.append((case, {"scores": scores}))
    last = auto_lambda.table(cases, True)[-1].split(" | ")
    assert last[:4] == ["| tensor one", "all", "all", "2"]
    assert [float(cell.strip(" |")) for cell in last[5:]] == [
        2.0 if i in (5, 7) else 4.0 for i in range(len(auto_lambda.P))
    ]


def test_recipes_for_flat_files_keep_their_settings() -> None:
    """Folders become files; what only mergekit-yaml knows is left out."""
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "/m/a", "parameters": {"weight": 0.5}}, {"model": "/m/b"}],
        "base_model": "/m/base",
        "parameters": {"normalize": False},
        "dtype": "float32",
        "tokenizer_source": "base",
    }
    assert of_files(recipe) == {
        "merge_method": "linear",
        "models": [
            {"model": "/m/a/model.safetensors", "parameters": {"weight": 0.5}},
            {"model": "/m/b/model.safetensors"},
        ],
        "base_model": "/m/base/model.safetensors",
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    assert recipe["base_model"] == "/m/base"
