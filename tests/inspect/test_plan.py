"""Which recipes can be planned for pcb, and how a base is put in."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from mergekit_pcb.cli import main
from mergekit_pcb.inspect.inspection import Inspection
from tests.inspect.helpers import Family, call, failure, inspect
from tests.tiny import fine_tune, invoke, recipe_of, write_recipe


def test_base_for_recipes_without_one(
    family: Family, found: Inspection, tmp_path: Path
) -> None:
    """`--base` completes a recipe for linear, and overrules one for slerp."""
    base, tuned = family
    linear = recipe_of(base, tuned, parameters={"weight": 1.0})
    linear["merge_method"] = "linear"
    del linear["base_model"]
    completed = inspect(linear, tmp_path, base=str(base.path))
    assert completed.whole.norms() == found.whole.norms()
    slerp = recipe_of(tuned[0], tuned[:2], parameters={"t": 0.5})
    slerp["merge_method"] = "slerp"
    assert len(inspect(slerp, tmp_path).models) == 1
    assert len(inspect(slerp, tmp_path, base=str(base.path)).models) == 2


def test_base_for_slices(family: Family, tmp_path: Path) -> None:
    """In slices, the base is added with the layers of the model beside it."""
    base, tuned = family
    slices = [
        {"sources": [{"model": tuned[0], "layer_range": [0, 2]}]},
        {"sources": [{"model": tuned[1], "layer_range": [1, 2]}]},
    ]
    recipe = {"merge_method": "passthrough", "slices": slices}
    inspection = inspect(recipe, tmp_path, base=str(base.path))
    assert list(inspection.layers()) == ["0", "1", "2", "outside"]
    first, second = inspection.layers()["1"].norms(), inspection.layers()["2"].norms()
    assert first[1] == second[0] == 0
    assert first[0] > 0 < second[1]


def test_wrong_recipes(family: Family, tmp_path: Path) -> None:
    """What `check` finds stops before any model is opened, in one line."""
    base, tuned = family
    recipe = recipe_of(base, tuned, parameters={"densty": 0.2})
    said = failure(call(recipe, tmp_path))
    assert said.endswith("`pcb` has no parameter `densty`; did you mean `density`?")
    recipe = recipe_of(base, [tmp_path / "a", tmp_path / "b"])
    said = failure(call(recipe, tmp_path))
    assert "does not exist" in said
    assert "(1 more: run `mergekit-pcb check" in said
    recipe = recipe_of(base, tuned, merge_method="linear", parameters={"weight": 1})
    del recipe["base_model"]
    assert "with --base" in failure(call(recipe, tmp_path))
    assert "lists no model beside the base" in failure(
        call(
            recipe_of(base, [base], merge_method="linear")
            | {"parameters": {"weight": 1}},
            tmp_path,
        )
    )


def test_several_merges_in_a_file(family: Family, tmp_path: Path) -> None:
    """mergekit-multi's files are refused in a line that says so."""
    file = write_recipe(recipe_of(*family, name="one"), tmp_path / "recipe.yml")
    first = file.read_text()
    file.write_text(f"{first}---\n{first.replace('name: one', 'name: two')}")
    said = failure(invoke(main, "inspect", file, "--quiet"))
    assert said.endswith("holds 2 merges; inspect takes one")


def test_tensors_of_single_files_are_in_natural_order(tmp_path: Path) -> None:
    """Layer 10 comes after layer 9; mergekit plans them in no order."""
    names = [f"layers.{i}.weight" for i in range(12)]
    files = [tmp_path / name for name in ("base.safetensors", "tuned.safetensors")]
    base = {name: torch.ones(4) for name in names}
    save_file(base, files[0])
    save_file(fine_tune(base, 0), files[1])
    inspection = inspect(recipe_of(files[0], files[1:]), tmp_path)
    assert [tensor.name for tensor in inspection.tensors] == names
