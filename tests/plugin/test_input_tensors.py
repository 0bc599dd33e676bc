"""A base that lacks what its fine-tunes have is named before any weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.scripts import merge_raw_pytorch, run_yaml
from safetensors.torch import save_file

import mergekit_pcb  # noqa: F401  # wraps where the start-up file does not run
from tests.tiny import (
    QUIET,
    error_line,
    invoke,
    recipe_of,
    save_classifiers,
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
