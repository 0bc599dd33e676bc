"""A model that is written to while it is merged stops the merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mergekit.scripts import merge_raw_pytorch
from safetensors.torch import load_file, save_file

import mergekit_pcb  # noqa: F401  # wraps where the start-up file does not run
from mergekit_pcb import cli
from mergekit_pcb.plugin import statistics_file
from tests.tiny import (
    QUIET,
    Model,
    error_line,
    fine_tune,
    invoke,
    recipe_of,
    save_family,
    write_recipe,
)


def rewrite_after_statistics(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have other weights written into a model's file between statistics and merge."""
    original = statistics_file.domain_statistics

    def then_rewrite(*arguments):
        found = original(*arguments)
        other = model.path / "other.safetensors"
        tensors = fine_tune(model.tensors, 77)
        save_file(tensors, other, metadata={"format": "pt"})
        with (model.path / "model.safetensors").open("r+b") as file:
            file.write(other.read_bytes())
        other.unlink()
        return found

    monkeypatch.setattr(statistics_file, "domain_statistics", then_rewrite)


@pytest.mark.parametrize("who", ["base", "tuned1"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_rewritten_in_place(
    who: str, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `scope: model` the merge would use thresholds of other weights."""
    base, tuned = save_family(tmp_path / "models", 2)
    (model,) = [m for m in (base, *tuned) if m.path.name == who]
    rewrite_after_statistics(model, monkeypatch)
    recipe = recipe_of(base, tuned, parameters={"scope": scope})
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(cli.main, "merge", file, tmp_path / "merged", *QUIET)
    if scope == "tensor":
        assert result.exception is None
        return
    line = error_line(result)
    assert "while it was merged: do not write to models" in line
    assert who in line or who == "base"
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_an_infinity_that_the_sample_misses(scope: str, tmp_path: Path) -> None:
    """All models share it, as in a mask: nobody has written to them."""
    drawn = torch.Generator().manual_seed(0)
    base = torch.randn(200_000, generator=drawn)
    files = []
    for name in ("base", "a", "b"):
        moved = base + (name != "base") * 0.01 * torch.randn(len(base), generator=drawn)
        moved[1] = -torch.inf
        files.append(tmp_path / f"{name}.safetensors")
        save_file({"w": moved, "v": moved[2:50].clone()}, files[-1])
    recipe = {
        "merge_method": "pcb",
        "base_model": str(files[0]),
        "models": [{"model": str(file)} for file in files[1:]],
        "parameters": {"scope": scope},
    }
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(merge_raw_pytorch.main, file, tmp_path / "merged", "--quiet")
    assert result.exception is None, result.output
    merged = load_file(tmp_path / "merged" / "model.safetensors")["w"]
    assert merged[1] == -torch.inf
    assert merged.isfinite().sum() == len(base) - 1


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32)])
def test_inputs_of_several_dtypes_are_no_change(
    dtypes: tuple[torch.dtype, torch.dtype], tmp_path: Path
) -> None:
    """Weights are compared in the dtype that they are merged in."""
    base, _ = save_family(tmp_path / "a", 0, dtype=dtypes[0])
    _, tuned = save_family(tmp_path / "b", 2, dtype=dtypes[1])
    recipe = recipe_of(base, tuned, parameters={"scope": "model"})
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(cli.main, "merge", file, tmp_path / "merged", *QUIET)
    assert result.exception is None, result.output
