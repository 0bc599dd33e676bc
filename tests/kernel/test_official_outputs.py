"""The outputs of the authors' own code, all four copies of it, both scopes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mergekit.merge_methods import merge_state_dicts, merge_tensors

import mergekit_pcb  # noqa: F401 registers the method
from mergekit_pcb.kernel.domain import Options
from mergekit_pcb.kernel.formula import merge_task_vectors

OFFICIAL = np.load(Path(__file__).parents[1] / "data" / "official_outputs.npz")
CASES = json.loads(OFFICIAL["meta"].tobytes())
FORMS = {
    "root": {"inter": "raw", "clamp": 0.0001},
    "nlp": {"inter": "raw", "clamp": 0.01},
    "vision": {"inter": "normalized", "clamp": 0.01},
    "es": {"inter": "pairwise", "clamp": 0.01},
}
each_case = pytest.mark.parametrize(
    "index", range(len(CASES)), ids=[f"{c['variant']}-n{c['n']}" for c in CASES]
)


def task_vectors(index: int) -> list[torch.Tensor]:
    count = len(CASES[index]["shapes"])
    return [torch.from_numpy(OFFICIAL[f"c{index:02d}_tv_t{k}"]) for k in range(count)]


def expected(index: int, scope: str) -> list[np.ndarray]:
    count = len(CASES[index]["shapes"])
    return [OFFICIAL[f"c{index:02d}_{scope}_t{k}"] for k in range(count)]


def assert_same(actual: torch.Tensor, official: np.ndarray) -> None:
    tolerance = 1e-6 * np.abs(official).max()
    np.testing.assert_allclose(actual.numpy(), official, rtol=0, atol=tolerance)


def recipe(index: int) -> dict[str, object]:
    case = CASES[index]
    return {
        "density": case["density"],
        "lambda": 1.0,
        "weight": case["weights"],
        **FORMS[case["variant"]],
    }


@each_case
@pytest.mark.parametrize("block", [64, None], ids=["blocks", "at once"])
def test_tensor_scope_equals_the_authors(
    index: int, block: int | None, blocks_of
) -> None:
    """Each tensor merged by itself is what the authors' code makes of it."""
    if block:
        blocks_of(block)
    for tau, official in zip(
        task_vectors(index), expected(index, "tensor"), strict=True
    ):
        merged = merge_tensors(
            [torch.zeros_like(tau[0]), *tau],
            "pcb",
            base_index=0,
            parameters=recipe(index),
        )
        assert_same(merged, official)


@each_case
def test_model_scope_equals_the_authors(index: int) -> None:
    """A model merged as a whole is what the authors' code makes of it."""
    taus = task_vectors(index)
    models = {"base": {str(k): torch.zeros(tau.shape[1]) for k, tau in enumerate(taus)}}
    for i in range(CASES[index]["n"]):
        models[f"model {i}"] = {str(k): tau[i] for k, tau in enumerate(taus)}
    merged = merge_state_dicts(
        models, "pcb", base="base", parameters={"scope": "model", **recipe(index)}
    )
    for k, official in enumerate(expected(index, "model")):
        assert_same(merged[str(k)], official)


@each_case
def test_plain_form_equals_the_authors(index: int) -> None:
    """The mathematics alone, without mergekit, agrees as well."""
    case, parameters = CASES[index], recipe(index)
    density = [case["density"]] * case["n"]
    together = torch.cat(task_vectors(index), dim=1)
    official = np.concatenate(expected(index, "model"))
    merged = merge_task_vectors(
        together,
        density=density,
        weight=parameters["weight"],
        options=Options(parameters["inter"], parameters["clamp"]),
    )
    assert_same(merged, official)
