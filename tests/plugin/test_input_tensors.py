"""What cannot be merged is named before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.scripts import merge_raw_pytorch, run_yaml
from safetensors.torch import save_file

import mergekit_pcb  # noqa: F401  # wraps where the start-up file does not run
from tests.tiny import (
    QUIET,
    Model,
    error_line,
    invoke,
    recipe_of,
    save_classifiers,
    save_family,
    tensors_of,
    write_recipe,
)


@pytest.fixture
def _nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_tensor(self, key, *arguments, **options):
        raise AssertionError(f"{key} was read")

    monkeypatch.setattr(LazyTensorLoader, "get_tensor", get_tensor)


@pytest.mark.usefixtures("_nothing_is_read")
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_an_optional_tensor(scope: str, tmp_path: Path) -> None:
    """The message names base, tensor and who has it."""
    base, *tuned = save_classifiers(tmp_path, [False, True, False])
    recipe = recipe_of(base, tuned, parameters={"scope": scope})
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    line = error_line(invoke(run_yaml.main, file, tmp_path / "merged", *QUIET))
    assert line == (
        f"the base model {base.path} has no tensor score.bias, but {tuned[0].path} "
        "has: pcb needs it in the base"
    )


@pytest.mark.usefixtures("_nothing_is_read")
def test_a_checkpoint_of_a_pytorch_recipe(tmp_path: Path) -> None:
    """Likewise for files without an architecture."""
    models = save_classifiers(tmp_path, [False, True, True])
    files = []
    for i, tensors in enumerate(tensors_of(models)):
        files.append(tmp_path / f"{i}.safetensors")
        save_file(tensors, files[-1])
    file = write_recipe(recipe_of(files[0], files[1:]), tmp_path / "recipe.yml")
    result = invoke(merge_raw_pytorch.main, file, tmp_path / "merged", "--tensor-union")
    assert "has no tensor score.bias" in error_line(result)


def test_a_model_may_lack_what_the_base_has(tmp_path: Path) -> None:
    """Then it has left that tensor unchanged."""
    base, *tuned = save_classifiers(tmp_path, [True, True, False])
    file = write_recipe(recipe_of(base, tuned), tmp_path / "recipe.yml")
    result = invoke(run_yaml.main, file, tmp_path / "merged", *QUIET)
    assert result.exception is None, result.output


def quantised(model: Model, dtype: torch.dtype, scale: str = "") -> None:
    """Store a model's projections as a quantiser does."""
    tensors = {}
    for name, tensor in model.tensors.items():
        tensors[name] = (tensor * 100).to(dtype) if "proj" in name else tensor
        if scale and "proj" in name:
            tensors[name + scale] = torch.tensor(0.01)
    save_file(tensors, model.path / "model.safetensors")


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "scale", "words"),
    [
        (torch.int8, "", "proj.weight is int8, the form of quantised weights"),
        (torch.uint8, ".absmax", "proj.weight is uint8, the form of quantised weights"),
        (torch.float8_e4m3fn, "_scale_inv", "proj.weight is float8, the form of quan"),
        (torch.float8_e4m3fn, "", "write `dtype: bfloat16`"),
    ],
)
def test_quantised_weights(
    dtype: torch.dtype, scale: str, words: str, who: int, scope: str, tmp_path: Path
) -> None:
    """Neither integers nor scaled bytes are merged as if they were weights."""
    base, tuned = save_family(tmp_path / "models", 2)
    model = (base, *tuned)[who]
    quantised(model, dtype, scale)
    more = {} if "dtype" in words else {"dtype": "float32"}
    recipe = recipe_of(base, tuned, parameters={"scope": scope}, **more)
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    line = error_line(invoke(run_yaml.main, file, tmp_path / "merged", *QUIET))
    assert f"{model.path.name}/model.safetensors" in line
    assert words in line


def test_float8_without_scales_is_merged_in_another_dtype(tmp_path: Path) -> None:
    """As it is written in the message."""
    base, tuned = save_family(tmp_path / "models", 2)
    for model in (base, *tuned):
        quantised(model, torch.float8_e4m3fn)
    file = write_recipe(
        recipe_of(base, tuned, dtype="bfloat16"), tmp_path / "recipe.yml"
    )
    result = invoke(run_yaml.main, file, tmp_path / "merged", *QUIET)
    assert result.exception is None, result.output


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_a_buffer_of_integers(scope: str, same: bool, tmp_path: Path) -> None:
    """One that differs stops the merge before its passes, not after them."""
    files = []
    for i in range(3):
        files.append(tmp_path / f"{i}.safetensors")
        weights = {
            "w": torch.linspace(0, 1 + i, 40),
            "n": torch.tensor(9 + i * (not same)),
        }
        save_file(weights, files[-1])
    recipe = recipe_of(files[0], files[1:], parameters={"scope": scope})
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(merge_raw_pytorch.main, file, tmp_path / "merged")
    if same:
        assert result.exception is None
    else:
        assert error_line(result).startswith("the integers in n differ between ")
        assert "PCB" not in result.stderr


def test_the_output_claims_no_quantisation(tmp_path: Path) -> None:
    """Its weights are not what the base's config says of the base's."""
    base, tuned = save_family(tmp_path / "models", 1)
    config = json.loads((base.path / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
    }
    (base.path / "config.json").write_text(json.dumps(config))
    file = write_recipe(recipe_of(base, tuned), tmp_path / "recipe.yml")
    result = invoke(run_yaml.main, file, tmp_path / "merged", *QUIET)
    assert result.exception is None, result.output
    written = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in written


@pytest.mark.parametrize("name", ["m@1", "m+1"])
def test_a_file_that_mergekit_pytorch_would_leave_out(
    name: str, tmp_path: Path
) -> None:
    """It is never dropped in silence."""
    files = []
    for i, stem in enumerate(("base", name, "other")):
        files.append(tmp_path / f"{stem}.safetensors")
        save_file({"w": torch.linspace(0, 1 + i, 40)}, files[-1])
    file = write_recipe(recipe_of(files[0], files[1:]), tmp_path / "recipe.yml")
    line = error_line(invoke(merge_raw_pytorch.main, file, tmp_path / "merged"))
    assert f"drops {files[1]} in silence" in line
