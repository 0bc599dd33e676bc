"""The published algorithm by sorting: the authors' numbers, and the parts left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import ablation
from experiments.reference import Parts, merge
from mergekit_pcb.kernel.formula import merge_task_vectors

OFFICIAL = np.load(Path(__file__).parents[1] / "data" / "official_outputs.npz")
CASES = json.loads(OFFICIAL["meta"].tobytes())
FORMS = {
    "root": Parts(clamp=0.0001),
    "nlp": Parts(),
    "vision": Parts(inter="normalized"),
    "es": Parts(inter="pairwise"),
}


@pytest.mark.parametrize("index", range(len(CASES)))
def test_equals_the_authors_bit_for_bit(index: int) -> None:
    """All four copies of their code, both scopes."""
    case = CASES[index]
    names = [f"c{index:02d}_{{}}_t{k}" for k in range(len(case["shapes"]))]
    taus = [torch.from_numpy(OFFICIAL[name.format("tv")]) for name in names]
    how = case["density"], FORMS[case["variant"]], case["weights"]
    for tau, name in zip(taus, names, strict=True):
        assert (merge(tau, *how).numpy() == OFFICIAL[name.format("tensor")]).all()
    whole = np.concatenate([OFFICIAL[name.format("model")] for name in names])
    assert (merge(torch.cat(taus, 1), *how).numpy() == whole).all()


@pytest.fixture
def tau() -> torch.Tensor:
    """Heavy-tailed task vectors of three models."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5000, generator=generator).pow(3) * 1e-3


def test_parts_that_are_left_out_change_the_merge(tau: torch.Tensor) -> None:
    """Each variant of the ablation is another merge, all of them finite."""
    tensors = {"a": list(tau[:, :4000].view(3, 40, 100)), "b": list(tau[:, 4000:])}
    merges = {
        variant: ablation.merged_by_reference(tensors, 0.2, parts, scope)
        for variant, (parts, scope) in ablation.VARIANTS.items()
    }
    flat = {
        variant: torch.cat([m["a"].flatten(), m["b"]]) for variant, m in merges.items()
    }
    assert all(one.isfinite().all() for one in flat.values())
    assert merges["pcb"]["a"].shape == (40, 100)
    ours = flat.pop("pcb")
    assert all(not torch.equal(one, ours) for one in flat.values())
    kernel = merge_task_vectors(tau[:, 4000:], density=[0.2] * 3, weight=[1.0] * 3)
    torch.testing.assert_close(merges["pcb"]["b"], kernel)


def test_without_drop_everybody_counts(tau: torch.Tensor) -> None:
    """Without drop and rescale, what is left is the mean of the clamped models."""
    parts = Parts(clamp=0.0, drop=False, rescale=False)
    torch.testing.assert_close(merge(tau, 0.2, parts), tau.mean(0))


def test_without_rescale_survivors_count_alike() -> None:
    """By hand: the largest half of each model is averaged."""
    tau = torch.tensor([[4.0, 3.0, 1.0, 0.5], [2.0, 0.1, -8.0, 0.2]])
    parts = Parts(clamp=0.0, inter="none", rescale=False)
    expected = torch.tensor([(4 + 2) / 2, 3.0, -8.0, 0.0])
    torch.testing.assert_close(merge(tau, 0.5, parts), expected)
