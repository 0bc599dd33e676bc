"""Which recipes can be planned for pcb, and how a base is put in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mergekit_pcb.cli import main
from mergekit_pcb.inspect import plan, tables
from mergekit_pcb.inspect.inspection import Inspection
from tests.inspect.helpers import Family, call, failure, inspect
from tests.tiny import (
    fine_tune,
    in_slices,
    invoke,
    recipe_of,
    save_family,
    write_recipe,
)


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


def test_the_base_may_be_written_in_several_ways(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path, one with dots, a link and the long form are one model."""
    base, tuned = family
    monkeypatch.chdir(base.path.parent)
    (tmp_path / "link").symlink_to(base.path)
    long_form = {"model": {"path": str(base.path)}}
    ways = ("./base", "../" + base.path.parent.name + "/base/", tmp_path / "link")
    for written in (long_form, *ways):
        layers = {"layer_range": [0, 2], "parameters": {"weight": 1}}
        sources = [{"model": written, **layers}, {"model": tuned[0], **layers}]
        recipe = {"merge_method": "linear", "slices": [{"sources": sources}]}
        found = inspect(recipe, tmp_path, base=str(base.path))
        assert found.models == (str(tuned[0].path),)
        assert found.whole.norms()[0] > 0


def test_a_model_spelt_twice_is_one(family: Family, tmp_path: Path) -> None:
    """Two slices may name the same folder in two ways."""
    base, (tuned, *_) = family
    other = f"{tuned.path.parent}/./{tuned.path.name}"
    slices = [
        {
            "sources": [
                {"model": base, "layer_range": [i, i + 1]},
                {"model": name, "layer_range": [i, i + 1]},
            ]
        }
        for i, name in enumerate((tuned, other))
    ]
    recipe = {"merge_method": "pcb", "base_model": base, "slices": slices}
    assert inspect(recipe, tmp_path).models == (str(tuned.path),)


@pytest.mark.parametrize("folder", ["c++", "me@lab", "two words", "ümlaut+@"])
def test_folders_with_any_name(folder: str, found: Inspection, tmp_path: Path) -> None:
    """The long form means the path as it stands."""
    base, tuned = save_family(tmp_path / folder, layers=2)
    base_form, *forms = ({"model": {"path": str(m.path)}} for m in (base, *tuned))
    inspection = inspect(recipe_of(base_form, forms), tmp_path)
    assert inspection.whole.norms() == found.whole.norms()
    assert inspection.short_models() == ["tuned0", "tuned1", "tuned2"]


@pytest.mark.parametrize("name", ["m@1", "m+1"])
@pytest.mark.parametrize("place", [0, 1])
def test_files_that_mergekit_pytorch_drops(
    name: str, place: int, tmp_path: Path
) -> None:
    """A model that would not take part is an error, whether base or not."""
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    files[place] = tmp_path / f"{name}.safetensors"
    base = {"x.weight": torch.ones(4)}
    save_file(base, files[0])
    save_file(fine_tune(base, 0), files[1])
    said = failure(call(recipe_of(files[0], files[1:]), tmp_path))
    assert str(files[place]) in said
    assert "rename it" in said
    recipe = recipe_of(files[0].rename(tmp_path / "0.safetensors"), [])
    recipe["models"] = [{"model": files[1].rename(tmp_path / "1.safetensors")}]
    assert call(recipe, tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("save", "ending"), [(save_file, "safetensors"), (torch.save, "bin")]
)
def test_what_would_stop_a_merge(save: Any, ending: str, tmp_path: Path) -> None:
    """Integers that differ are told from those that are equal and only not merged."""
    base = {"w": torch.randn(4, 4), "steps": torch.tensor(3)}
    tuned = fine_tune({"w": base["w"]}, 0)
    names = [tmp_path / f"{name}.{ending}" for name in ("base", "equal", "different")]
    save(base, names[0])
    save(tuned | {"steps": torch.tensor(3)}, names[1])
    save(tuned | {"steps": torch.tensor(4)}, names[2])
    equal = inspect(recipe_of(names[0], [names[1]]), tmp_path)
    assert equal.stops == {}
    assert tables.summary(equal).endswith("Not merged: 1 tensor, first steps.")
    different = inspect(recipe_of(names[0], [names[2]]), tmp_path)
    assert different.skipped == ("steps",)
    assert "Not merged" not in tables.summary(different)
    (warning,) = tables.warnings(different)
    assert warning.startswith("A merge by pcb stops: the integers in steps differ")


def test_quantised_weights(tmp_path: Path) -> None:
    """They are named with their dtype before anything is measured."""
    base, tuned = save_family(tmp_path, 2)
    name = "model.layers.0.mlp.up_proj.weight"
    quantised = (tuned[1].tensors[name] * 1000).round().to(torch.int8)
    save_file(tuned[1].tensors | {name: quantised}, tuned[1].path / "model.safetensors")
    said = failure(call(recipe_of(base, tuned), tmp_path))
    assert f"tuned1/model.safetensors: {name} is int8" in said


def test_tensors_that_the_output_drops(tmp_path: Path) -> None:
    """Those that mergekit's architecture has no names for, and layers too many."""
    base, tuned = save_family(tmp_path, 1)
    extra = {f"model.mtp.{i}.proj.weight": torch.ones(4) for i in range(2)}
    layer = {f"model.layers.2.{i}.weight": torch.ones(4) for i in ("a", "b")}
    for model, more in ((base, {}), (tuned[0], extra | layer)):
        save_file(model.tensors | more, model.path / "model.safetensors")
    found = inspect(recipe_of(base, tuned), tmp_path)
    assert found.dropped == {
        "model.layers.*.a.weight": 1,
        "model.layers.*.b.weight": 1,
        "model.mtp.*.proj.weight": 2,
    }
    assert tables.summary(found).endswith(
        "Not in the output, though a model has them: 4 tensors, "
        "model.layers.*.a.weight (1), model.layers.*.b.weight (1), "
        "model.mtp.*.proj.weight (2)."
    )


def test_layers_that_the_recipe_leaves_out_are_not_dropped(
    family: Family, tmp_path: Path
) -> None:
    """Nor is a head that is tied to the embedding and stored as well."""
    base, tuned = family
    recipe = in_slices(base, tuned[:1], [[0, 1]], [[0.2]])
    assert inspect(recipe, tmp_path).dropped == {}
    tied, models = save_family(tmp_path / "tied", 1, head=False)
    head = {"lm_head.weight": tied.tensors["model.embed_tokens.weight"].clone()}
    save_file(models[0].tensors | head, models[0].path / "model.safetensors")
    assert inspect(recipe_of(tied, models), tmp_path).dropped == {}


def test_causes_that_libraries_do_not_name(tmp_path: Path) -> None:
    """An adapter that is none, one without a place to go, a wrapped file."""
    base, tuned = save_family(tmp_path, 2)
    adapted = recipe_of(base, [f"{base.path}+{tuned[0].path}"])
    assert "has no adapter_config.json" in failure(call(adapted, tmp_path))
    (tuned[0].path / "adapter_config.json").write_text("{}")
    assert "--lora-merge-cache DIR" in failure(call(adapted, tmp_path))
    weights = tuned[0].path / "model.safetensors"
    weights.unlink()
    torch.save({"model": tuned[0].tensors}, tuned[0].path / "pytorch_model.bin")
    said = failure(call(recipe_of(base, tuned), tmp_path))
    assert "tuned0/pytorch_model.bin is a training checkpoint" in said
    assert "under `model`" in said


def test_a_config_without_architectures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` says it of folders, the plan of models of the hub."""
    base, tuned = save_family(tmp_path, 1)
    (base.path / "config.json").write_text('{"model_type": "llama"}')
    said = failure(call(recipe_of(base, tuned), tmp_path))
    assert f"{base.path}/config.json names no `architectures`" in said
    monkeypatch.setattr(plan, "require_no_errors", lambda *arguments: None)
    said = failure(call(recipe_of(base, tuned), tmp_path))
    assert said.startswith(
        f"{base.path}/config.json names no `architectures`, by which"
    )


def test_wrapped_files_of_mergekit_pytorch(tmp_path: Path) -> None:
    """Mergekit lists what is under `state_dict`, and then cannot read it."""
    base = {"a.weight": torch.ones(4)}
    torch.save(base, tmp_path / "base.bin")
    torch.save({"state_dict": fine_tune(base, 0)}, tmp_path / "tuned.bin")
    recipe = recipe_of(tmp_path / "base.bin", [tmp_path / "tuned.bin"])
    said = failure(call(recipe, tmp_path))
    assert said.startswith(f"{tmp_path}/tuned.bin is a training checkpoint")
    assert "['state_dict']" in said


def test_tensors_of_different_shapes(tmp_path: Path) -> None:
    """Both files, the tensor and the shapes are named, and no weights are read."""
    base, tuned = save_family(tmp_path, 2)
    name = "model.layers.1.mlp.up_proj.weight"
    weights = tuned[1].tensors | {name: torch.ones(3, 16)}
    save_file(weights, tuned[1].path / "model.safetensors")
    said = failure(call(recipe_of(base, tuned), tmp_path))
    assert f"tuned1/model.safetensors: {name} is (3, 16) in shape, and" in said
    assert f"tuned0/model.safetensors: {name} (32, 16): tensors of different" in said
