"""Candidates in memory have the weights of a real merge of their recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit.options import MergeOptions
from mergekit.scripts import run_yaml

from mergekit_pcb.kernel.projection import target
from mergekit_pcb.search.model import MergedModel, load_model
from mergekit_pcb.search.planned import planned
from mergekit_pcb.search.space import (
    PCB,
    RECIPE,
    TASK_ARITHMETIC,
    Candidate,
    Setting,
    recipe_of,
)
from tests import tiny

OPTIONS = MergeOptions(quiet=True)


class Both:
    """A recipe merged in memory and by mergekit-yaml."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        file = tiny.write_recipe(recipe, folder / "start.yml")
        self.start = yaml.safe_load(file.read_text())
        self.sources = planned(str(file), self.start, OPTIONS)
        self.base = self.sources.base(folder / "base.f32")
        base = Path(self.start["base_model"])
        self.merged = MergedModel(load_model(base, "cpu"), self.base, self.sources)
        self.count = 0

    def in_memory(self, candidate: Candidate) -> tiny.Tensors:
        self.count += 1
        contributions = self.sources.contributions(
            candidate.setting,
            self.folder / f"{self.count}.f32",
            by_model=bool(candidate.factors),
        )
        self.merged.set(contributions, candidate.scale, candidate.factors)
        state = self.merged.model.state_dict()
        return {name: tensor.clone() for name, tensor in state.items()}

    def by_mergekit(self, candidate: Candidate) -> tiny.Tensors:
        recipe = recipe_of(self.start, candidate)
        out = self.folder / f"merged{self.count}"
        return tiny.read(tiny.merge(run_yaml.main, recipe, out)[0])


GRADIENT = [{"filter": "mlp", "value": [0.5, 1.5]}, {"value": 1.0}]


def family_recipe(folder: Path, stored: torch.dtype, **more: Any) -> dict[str, Any]:
    base, tuned = tiny.save_family(folder, 3, dtype=stored, head=False)
    recipe = tiny.recipe_of(base, tuned, **more)
    recipe["models"][1]["parameters"] = {"weight": GRADIENT}
    return recipe


SETTINGS = [
    Candidate(Setting(RECIPE)),
    Candidate(Setting(PCB, 0.2, "tensor"), 0.9),
    Candidate(Setting(PCB, 0.4, "model"), 1.3),
    Candidate(Setting(TASK_ARITHMETIC), 0.4),
]


@pytest.mark.parametrize("candidate", SETTINGS, ids=str)
def test_in_float32_a_candidate_is_a_merge(
    tmp_path: Path, candidate: Candidate
) -> None:
    """Bit by bit for pcb; for task_arithmetic up to the order of a sum."""
    both = Both(tmp_path, family_recipe(tmp_path, torch.float32))
    mine, real = both.in_memory(candidate), both.by_mergekit(candidate)
    for name, tensor in real.items():
        if candidate.setting.method == TASK_ARITHMETIC:
            torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-6)
        else:
            assert torch.equal(mine[name], tensor), name
    # The output of this model is tied to its embedding.
    assert mine["lm_head.weight"] is not None
    assert torch.equal(mine["lm_head.weight"], mine["model.embed_tokens.weight"])


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        (torch.bfloat16, {}),
        (torch.float16, {}),
        (torch.bfloat16, {"dtype": "float32", "out_dtype": "bfloat16"}),
        (torch.float32, {"dtype": "bfloat16"}),
    ],
)
def test_other_dtypes_are_rounded_as_in_a_merge(
    tmp_path: Path, scope: str, dtype: torch.dtype, more: dict[str, str]
) -> None:
    """The model in memory has the numbers of the file, in float32."""
    both = Both(tmp_path, family_recipe(tmp_path, dtype, **more))
    candidate = Candidate(Setting(PCB, 0.2, scope), 1.1)
    mine, real = both.in_memory(candidate), both.by_mergekit(candidate)
    for name, tensor in real.items():
        assert tiny.same(mine[name], tensor), name


@pytest.mark.parametrize("candidate", SETTINGS[1:], ids=str)
def test_weights_are_factors_on_contributions(
    tmp_path: Path, candidate: Candidate
) -> None:
    """Factors on the weights give the merge of the recipe with other weights."""
    weighed = Candidate(candidate.setting, candidate.scale, (0.5, 2.0, 1.25))
    both = Both(tmp_path, family_recipe(tmp_path, torch.float32))
    mine, real = both.in_memory(weighed), both.by_mergekit(weighed)
    for name, tensor in real.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-6)
    plain = both.in_memory(candidate)
    assert not torch.equal(
        plain["model.embed_tokens.weight"], mine["model.embed_tokens.weight"]
    )


def test_a_gradient_stays_a_gradient(tmp_path: Path) -> None:
    """Factors multiply a filtered list; weights of a higher level are inherited."""
    recipe = tiny.recipe_of("base", ["a", "b"], parameters={"weight": 2.0})
    recipe["models"][1]["parameters"] = {"weight": GRADIENT, "density": 0.5}
    found = recipe_of(recipe, Candidate(Setting(RECIPE), None, (0.5, 2.0)))
    assert found["models"][0]["parameters"] == {"weight": 1.0}
    assert found["models"][1]["parameters"] == {
        "weight": [{"filter": "mlp", "value": [1.0, 3.0]}, {"value": 2.0}],
        "density": 0.5,
    }
    assert found["parameters"] == {}


def test_auto_of_the_whole_model_keeps_the_target(tmp_path: Path) -> None:
    """At that lambda the merge keeps the target of the task vectors, on average."""
    both = Both(tmp_path, family_recipe(tmp_path, torch.float32))
    setting = Setting(PCB, 0.2, "tensor")
    contributions = both.sources.contributions(setting, tmp_path / "auto.f32")
    models = [tiny.read(Path(m["model"])) for m in both.start["models"]]
    base = tiny.read(Path(both.start["base_model"]))
    names = list(base)

    def flat(tensors: tiny.Tensors) -> torch.Tensor:
        parts = [(tensors[n] - base[n]).double().reshape(-1) for n in names]
        return torch.cat(parts)

    merged = torch.cat([contributions.merged(n).double() for n in names])
    kept = [(merged @ flat(m) / (flat(m) @ flat(m))).item() for m in models]
    assert contributions.automatic * sum(kept) / 3 == pytest.approx(target(3), rel=1e-3)
