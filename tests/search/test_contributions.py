"""Candidates in memory have the weights of a real merge of their recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.scripts import merge_raw_pytorch

from mergekit_pcb.kernel import kept_rows
from mergekit_pcb.kernel.projection import target
from mergekit_pcb.search.bench import Bench
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
from tests.search.families import OPTIONS, Both

GRADIENT = [{"filter": "mlp", "value": [0.5, 1.5]}, {"value": 1.0}]


def family_recipe(folder: Path, stored: torch.dtype, **more: Any) -> dict[str, Any]:
    base, tuned = tiny.save_family(folder, 3, dtype=stored, head=False)
    recipe = tiny.recipe_of(base, tuned, **more)
    recipe["models"][1]["parameters"] = {"weight": GRADIENT}
    return recipe


FACTORS = (0.5, 2.0, 1.234)
# Each after one of other contributions, or of the same.
CANDIDATES = [
    Candidate(Setting(RECIPE)),
    Candidate(Setting(PCB, 0.2, "tensor"), 0.9),
    Candidate(Setting(PCB, 0.2, "tensor"), 1.1),
    Candidate(Setting(PCB, 0.7, "model"), 1.3),
    Candidate(Setting(TASK_ARITHMETIC), 0.4),
    Candidate(Setting(TASK_ARITHMETIC), 1.0, FACTORS),
    Candidate(Setting(PCB, 0.1, "model"), 1.3, FACTORS),
    Candidate(Setting(PCB, 0.1, "model"), 1.3, FACTORS[::-1]),
    Candidate(Setting(PCB, 0.2, "tensor"), 0.9),
]


FLOAT32_OF_HALF = {"dtype": "float32", "out_dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("dtype", "more", "compiled"),
    [
        (torch.float32, {}, True),
        (torch.float32, {}, False),
        (torch.bfloat16, {}, True),
        (torch.bfloat16, {}, False),
        (torch.float16, {}, True),
        (torch.bfloat16, FLOAT32_OF_HALF, True),
        (torch.float32, {"dtype": "bfloat16", "out_dtype": "float32"}, True),
    ],
)
def test_a_candidate_is_a_merge(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    more: dict[str, str],
    compiled: bool,
) -> None:
    """The model in memory has the numbers of the file, bit by bit, in every dtype."""
    if not compiled:
        monkeypatch.setattr(kept_rows, "numba_problem", lambda: "switched off")
    both = Both(tmp_path, family_recipe(tmp_path, dtype, **more))
    for candidate in CANDIDATES:
        both.assert_same(candidate)
    # The output of this model is tied to its embedding.
    mine = both.in_memory(CANDIDATES[1])
    assert torch.equal(mine["lm_head.weight"], mine["model.embed_tokens.weight"])
    base = both.bench.base_model().state_dict()
    for name, tensor in tiny.read(Path(both.start["base_model"])).items():
        written = both.bench.sources.written(tensor, name)
        assert tiny.same(base[name], written), name


def test_a_state_dict_is_a_merge_of_mergekit_pytorch(tmp_path: Path) -> None:
    """Models without a class of transformers: files of weights, with the same bits."""
    base, tuned = tiny.save_family(tmp_path, 3, dtype=torch.bfloat16)
    files = [str(m.path / "model.safetensors") for m in (base, *tuned)]
    start = tiny.recipe_of(files[0], files[1:])
    file = tiny.write_recipe(start, tmp_path / "flat.yml")
    weights = {name: tensor.float() for name, tensor in tiny.read(base.path).items()}
    bench = Bench(planned(str(file), start, OPTIONS), lambda: weights, tmp_path)
    for i in (1, 4, 6):
        found = bench.model_of(CANDIDATES[i])
        recipe = tiny.write_recipe(
            recipe_of(start, CANDIDATES[i]), tmp_path / f"{i}.yml"
        )
        out = tmp_path / f"flat{i}"
        result = tiny.invoke(merge_raw_pytorch.main, recipe, out, "--quiet")
        assert result.exit_code == 0, result.output
        for name, tensor in tiny.read(out).items():
            assert tiny.same(found[name], tensor), (i, name)


def test_what_an_evaluation_does_to_weights_is_undone(tmp_path: Path) -> None:
    """Also where no model competes, and nothing would be written."""
    both = Both(tmp_path, family_recipe(tmp_path, torch.float32))
    both.bench.anew = True
    for candidate in CANDIDATES[1:3]:
        both.assert_same(candidate)
        for parameter in both.bench.model_of(candidate).parameters():
            parameter.data.add_(1.0)
    both.assert_same(CANDIDATES[2])


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


def test_statistics_of_a_file_are_of_one_setting() -> None:
    """Other settings must not be merged with them."""
    own = {"statistics": "pcb.json", "scope": "model"}
    recipe = tiny.recipe_of("base", ["a", "b"], parameters=own)
    assert recipe_of(recipe, Candidate(Setting(RECIPE)))["parameters"] == own
    found = recipe_of(recipe, Candidate(Setting(PCB, 0.4, "model"), 1.0))
    assert "statistics" not in found["parameters"]


@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0, -1.0])
@pytest.mark.parametrize("method", [PCB, TASK_ARITHMETIC])
def test_a_factor_on_all_weights_changes_no_candidate(
    tmp_path: Path, method: str, weight: float
) -> None:
    """Lambda makes up for it, whatever its bounds are at weights of 1."""
    base, tuned = tiny.save_family(tmp_path, 3, head=False)
    setting = Setting(method, *((0.2, "tensor") if method == PCB else ()))

    def automatic(weight: float) -> float:
        recipe = tiny.recipe_of(base, tuned, parameters={"weight": weight})
        return Both(tmp_path, recipe).bench.contributions(setting).automatic

    expected = automatic(1.0) / abs(weight)
    if weight < 0:  # all are subtracted: there is nothing that is kept
        expected = 1.0
    assert automatic(weight) == pytest.approx(expected, rel=1e-3)


def test_auto_of_the_whole_model_keeps_the_target(tmp_path: Path) -> None:
    """At that lambda the merge keeps the target of the task vectors, on average."""
    both = Both(tmp_path, family_recipe(tmp_path, torch.float32))
    setting = Setting(PCB, 0.2, "tensor")
    found = both.bench.contributions(setting)
    models = [tiny.read(Path(m["model"])) for m in both.start["models"]]
    base = tiny.read(Path(both.start["base_model"]))
    names = list(base)

    def flat(tensors: tiny.Tensors) -> torch.Tensor:
        parts = [(tensors[n] - base[n]).double().reshape(-1) for n in names]
        return torch.cat(parts)

    after = both.in_memory(Candidate(setting, 1.0))
    merged = flat({name: after[name] for name in names})
    kept = [(merged @ flat(m) / (flat(m) @ flat(m))).item() for m in models]
    assert found.automatic * sum(kept) / 3 == pytest.approx(target(3), rel=1e-3)
