"""Weights of groups of tensors: what a recipe says, mergekit merges, and memory has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from mergekit.scripts import run_yaml

from mergekit_pcb.errors import PCBError
from mergekit_pcb.search.command import search
from mergekit_pcb.search.groups import groups_for
from mergekit_pcb.search.space import (
    PCB,
    TASK_ARITHMETIC,
    Candidate,
    Setting,
    recipe_of,
)
from tests import tiny
from tests.search import families
from tests.search.families import Both
from tests.search.test_command import measure

RECIPE = tiny.recipe_of("base", ["a", "b"])
LLAMA = ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm"]
LLAMA += ["self_attn.o_proj"]
NAMES = {
    "llama": [f"model.layers.{i}.{part}.weight" for i in (0, 1) for part in LLAMA],
    "gpt2": [
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_proj.weight",
        "h.0.mlp.c_fc.weight",
        "h.0.mlp.c_proj.weight",
        "wte.weight",
    ],
    "t5": [
        "decoder.block.0.layer.0.SelfAttention.q.weight",
        "decoder.block.0.layer.1.EncDecAttention.q.weight",
        "decoder.block.0.layer.2.DenseReluDense.wo.weight",
        "decoder.block.0.layer.2.DenseReluDense.wi.weight",
    ],
}


@pytest.mark.parametrize(
    ("model", "filters"),
    [
        ("llama", ("self_attn", "mlp")),
        ("gpt2", ("attn", "mlp")),
        ("t5", ("Attention", "DenseReluDense")),
    ],
)
def test_filters_tell_kinds_apart(model: str, filters: tuple[str, ...]) -> None:
    """A filter is a part of all names of a kind, and of none of the other kind."""
    found = groups_for("kind", RECIPE, NAMES[model])
    assert found.filters == filters
    assert found.names == ("attention", "MLP", "others")


def test_names_without_kinds_are_refused() -> None:
    """Where no filter would fit, the other form is named."""
    with pytest.raises(PCBError, match="tensors of attention cannot be told"):
        groups_for("kind", RECIPE, ["a.weight", "b.weight"])


@pytest.mark.parametrize("per_group", ["kind", "depth"])
def test_weights_with_a_form_of_their_own_are_refused(per_group: str) -> None:
    """A gradient cannot be divided among groups."""
    recipe = tiny.recipe_of("base", ["a"], parameters={"weight": [0.5, 1.0]})
    with pytest.raises(PCBError, match="needs one number as the `weight`"):
        groups_for(per_group, recipe, NAMES["llama"])


def test_slices_have_no_depth() -> None:
    """A gradient begins anew in each slice."""
    recipe = tiny.in_slices("base", ["a", "b"], [[0, 1], [1, 2]], [[0.2, 0.2]] * 2)
    with pytest.raises(PCBError, match="needs a recipe with `models`"):
        groups_for("depth", recipe, NAMES["llama"])
    assert groups_for("kind", recipe, NAMES["llama"])


def test_the_recipe_has_the_forms_of_mergekit() -> None:
    """A filtered list for kinds, a gradient for depth; factors are on its weights."""
    recipe = tiny.recipe_of("base", ["a", "b"], parameters={"weight": 0.5})
    factors = (1.0, 2.0, 3.0, 0.5, 0.6, 0.7)
    kinds = groups_for("kind", recipe, NAMES["llama"])
    candidate = Candidate(Setting(PCB, 0.2, "tensor"), 1.1, factors, kinds)
    assert str(candidate).endswith("weights attention 1/0.5 MLP 2/0.6 others 3/0.7")
    found = recipe_of(recipe, candidate)
    assert found["models"][1]["parameters"]["weight"] == [
        {"filter": "self_attn", "value": 0.25},
        {"filter": "mlp", "value": 0.3},
        {"value": 0.35},
    ]
    depth = groups_for("depth", recipe, NAMES["llama"])
    found = recipe_of(recipe, Candidate(Setting(TASK_ARITHMETIC), 1.1, factors, depth))
    assert found["models"][0]["parameters"]["weight"] == [0.5, 1.0, 1.5]


@pytest.mark.parametrize("per_group", ["kind", "depth"])
def test_mergekit_merges_what_is_in_memory(tmp_path: Path, per_group: str) -> None:
    """The same tensors, bit by bit, for weights of groups."""
    base, tuned = tiny.save_family(
        tmp_path, 2, dtype=torch.bfloat16, layers=4, head=False
    )
    recipe = tiny.recipe_of(base, tuned)
    recipe["models"][1]["parameters"] = {"weight": 0.7}
    both = Both(tmp_path, recipe)
    groups = groups_for(per_group, both.start, both.bench.sources.names)
    factors = (0.5, 1.7, 1.234, 2.0, 0.6, 1.1)
    for setting in (Setting(PCB, 0.2, "tensor"), Setting(TASK_ARITHMETIC)):
        both.assert_same(Candidate(setting, 0.9, factors, groups))


@pytest.mark.slow
def test_weights_of_kinds_are_found_by_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the wanted merge has other weights in the MLP, they are found there."""
    pytest.importorskip("cma")
    file, (base, *tuned) = families.language_models(tmp_path)
    weight = [{"filter": "mlp", "value": 0.8}, {"value": 0.3}]
    wanted = tiny.recipe_of(base, tuned, parameters={"weight": weight})
    wanted["merge_method"] = "task_arithmetic"
    merged, _ = tiny.merge(run_yaml.main, wanted, tmp_path / "wanted")
    measure(tmp_path, merged, monkeypatch)
    out = tmp_path / "found"
    options = ("--evaluate", "measure_here:distance", "--budget", 90)
    result = tiny.invoke(search, file, "--out", out, *options, "--per-group", "kind")
    assert result.exit_code == 0, result.output
    best = json.loads((out / "search.json").read_text())["best"]
    recipe = yaml.safe_load((out / "best.yml").read_text())
    for entry in recipe["models"]:
        attention, mlp, others = entry["parameters"]["weight"]
        assert (attention["filter"], mlp["filter"]) == ("self_attn", "mlp")
        assert mlp["value"] > 1.5 * max(attention["value"], others["value"])
    found, _ = tiny.merge(run_yaml.main, recipe, tmp_path / "merged")
    distance = sum(
        (tiny.read(found)[name] - tensor).square().sum().item()
        for name, tensor in tiny.read(merged).items()
    )
    assert distance == pytest.approx(best["loss"], rel=1e-4)
