"""What is wrong with a recipe or a checkpoint is said in one line, and nothing is left.

"Nothing" is exact for `mergekit-pcb merge` and for mistakes in the recipe; a damaged
checkpoint shows only while `mergekit-yaml` is merging, which then leaves a folder that
nobody can mistake for a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.scripts import merge_raw_pytorch, multimerge, run_yaml

from mergekit_pcb import cli
from tests.tiny import (
    QUIET,
    Model,
    error_line,
    fine_tune,
    invoke,
    llama_weights,
    recipe_of,
    save_family,
    save_llama,
    write_recipe,
)

# A click command and the arguments that come first.
Command = tuple[Any, ...]

MERGEKIT_YAML = (run_yaml.main,)
MERGEKIT_PCB = (cli.main, "merge")
COMMANDS = pytest.mark.parametrize(
    "command",
    [
        pytest.param(MERGEKIT_YAML, id="mergekit-yaml"),
        pytest.param(MERGEKIT_PCB, id="mergekit-pcb"),
    ],
)


def failure(command: Command, recipe: dict, tmp_path: Path) -> str:
    """The one line that a command prints about a recipe it cannot merge."""
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(*command, file, tmp_path / "merged", *QUIET)
    return error_line(result)


def left_behind(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@COMMANDS
@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"density": 0}, "density must be in (0, 1], got 0"),
        ({"density": 30}, "density must be in (0, 1], got 30; did you mean 0.3?"),
        ({"density": "high"}, "density must be in (0, 1], got 'high'"),
        ({"density": [0.1, 1.5]}, "density must be in (0, 1], got 1.5"),
        ({"density": float("nan")}, "density must be in (0, 1], got nan"),
        ({"weight": "much"}, "weight must be a finite number, got 'much'"),
        ({"lambda": float("inf")}, "lambda must be auto or a finite number, got inf"),
        ({"clamp": 0.5}, "clamp must be in [0, 0.5), got 0.5"),
        (
            {"scope": "modle"},
            "scope must be tensor or model, got 'modle'; did you mean model?",
        ),
        (
            {"inter": "pairs"},
            "inter must be raw, normalized or pairwise, got 'pairs'; did you mean pair",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value)),
)
def test_bad_parameter(
    command: Command, parameters: dict, line: str, tmp_path: Path
) -> None:
    """A bad value is named, with what it takes, before anything is written."""
    base, tuned = save_family(tmp_path / "models", 2)
    said = failure(command, recipe_of(base, tuned, parameters=parameters), tmp_path)
    assert line in said
    # `mergekit-pcb merge` knows where in the recipe it is.
    assert said.startswith(line) == (command is MERGEKIT_YAML)
    assert not (tmp_path / "merged").exists()


@COMMANDS
def test_bad_parameter_of_one_model(command: Command, tmp_path: Path) -> None:
    """A bad value of a single model is found before anything is written."""
    base, tuned = save_family(tmp_path / "models", 2)
    recipe = recipe_of(base, tuned, parameters={"density": 0.1})
    recipe["models"][1]["parameters"] = {"density": 20}
    said = failure(command, recipe, tmp_path)
    assert said.endswith("density must be in (0, 1], got 20; did you mean 0.2?")
    assert not (tmp_path / "merged").exists()


@COMMANDS
def test_no_base_model(command: Command, tmp_path: Path) -> None:
    """Without a base model there are no task vectors; nothing is written."""
    base, tuned = save_family(tmp_path / "models", 2)
    recipe = recipe_of(base, tuned)
    del recipe["base_model"]
    said = failure(command, recipe, tmp_path).replace("`", "")
    assert "pcb needs " in said
    assert "base_model:" in said
    assert not (tmp_path / "merged").exists()


@COMMANDS
def test_model_listed_twice(command: Command, tmp_path: Path) -> None:
    """A model that is listed twice is named before anything is written."""
    base, tuned = save_family(tmp_path / "models", 2)
    said = failure(command, recipe_of(base, [*tuned, tuned[0]]), tmp_path)
    assert f"{tuned[0].path} is listed twice" in said.replace("`", "")
    assert not (tmp_path / "merged").exists()


def save_damaged(folder: Path, which: int, value: float) -> list[Model]:
    """Write a base and two fine-tunes, of which one holds ``value`` somewhere."""
    weights = llama_weights()
    models = [weights, fine_tune(weights, 0), fine_tune(weights, 1)]
    models[which]["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    return [
        save_llama(folder / f"{i}", tensors, dtype=torch.bfloat16)
        for i, tensors in enumerate(models)
    ]


@COMMANDS
@pytest.mark.parametrize(
    ("which", "value"),
    [(1, float("nan")), (2, float("-inf")), (0, float("nan"))],
    ids=["nan", "inf", "nan-in-base"],
)
def test_damaged_checkpoint(
    command: Command, which: int, value: float, tmp_path: Path
) -> None:
    """NaN or infinity stops the merge and names model and tensor; no model is left."""
    models = save_damaged(tmp_path / "models", which, value)
    said = failure(command, recipe_of(models[0], models[1:]), tmp_path)
    assert said.startswith(
        f"{models[which].path} holds NaN or infinity in "
        "model.layers.1.mlp.down_proj.weight"
    )
    assert left_behind(tmp_path / "merged") == []
    assert (tmp_path / "merged").exists() == (command is MERGEKIT_YAML)


def test_damaged_checkpoint_in_shards(tmp_path: Path) -> None:
    """Shards written before the damage was found do not look like a model."""
    models = save_damaged(tmp_path / "models", 1, float("nan"))
    file = write_recipe(recipe_of(models[0], models[1:]), tmp_path / "recipe.yml")
    result = invoke(
        run_yaml.main, file, tmp_path / "merged", *QUIET, "--out-shard-size", "500"
    )
    error_line(result)
    left = left_behind(tmp_path / "merged")
    assert "model-1.safetensors" in left  # or the test would show nothing
    assert not [name for name in left if name.endswith(".json") or "-of-" in name]
    assert "model.safetensors" not in left


def save_misshapen(folder: Path) -> tuple[Model, list[Model]]:
    """Write a family of which one member has a narrower tensor."""
    weights = llama_weights()
    narrow = fine_tune(weights, 0)
    narrow["model.layers.0.mlp.up_proj.weight"] = torch.zeros(24, 16)
    tuned = [save_llama(folder / "narrow", narrow)]
    tuned.append(save_llama(folder / "tuned", fine_tune(weights, 1)))
    return save_llama(folder / "base", weights), tuned


def test_shapes_that_differ(tmp_path: Path) -> None:
    """Tensors of different shapes are named with their shapes in one line."""
    base, tuned = save_misshapen(tmp_path / "models")
    said = failure(MERGEKIT_PCB, recipe_of(base, tuned), tmp_path)
    assert "model.layers.0.mlp.up_proj.weight" in said
    assert "(24, 16)" in said
    assert not (tmp_path / "merged").exists()


def test_shapes_that_differ_in_mergekit_yaml(tmp_path: Path) -> None:
    """With mergekit-yaml it is the same line, before anything is written."""
    base, tuned = save_misshapen(tmp_path / "models")
    file = write_recipe(recipe_of(base, tuned), tmp_path / "recipe.yml")
    result = invoke(run_yaml.main, file, tmp_path / "merged", *QUIET)
    said = error_line(result)
    assert "model.layers.0.mlp.up_proj.weight (24, 16): tensors of different" in said
    assert left_behind(tmp_path / "merged") == []


def test_embeddings_that_differ(tmp_path: Path) -> None:
    """A larger vocabulary is answered with what to add to the recipe."""
    base, tuned = save_family(tmp_path / "models", 1)
    wide = save_llama(tmp_path / "models" / "wide", llama_weights(3, vocab=70))
    said = failure(MERGEKIT_PCB, recipe_of(base, [*tuned, wide]), tmp_path)
    assert f"`{tuned[0].path}` 64" in said
    assert "tokenizer_source: base" in said


def test_a_failed_merge_spares_what_was_there(tmp_path: Path) -> None:
    """`mergekit-pcb merge` leaves an older model at the output path as it was."""
    models = save_damaged(tmp_path / "models", 1, float("nan"))
    older = tmp_path / "merged"
    older.mkdir()
    (older / "model.safetensors").write_text("older")
    failure(MERGEKIT_PCB, recipe_of(models[0], models[1:]), tmp_path)
    assert left_behind(older) == ["model.safetensors"]
    assert (older / "model.safetensors").read_text() == "older"
    assert left_behind(tmp_path)[:2] == ["merged", "merged/model.safetensors"]


def test_bad_parameter_in_mergekit_multi(tmp_path: Path) -> None:
    """With mergekit-multi it is the same line, and that merge writes nothing."""
    base, tuned = save_family(tmp_path / "models", 1)
    recipe = {"name": "first", **recipe_of(base, tuned, parameters={"density": 30})}
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(multimerge.main, file, "-I", tmp_path / "merged", *QUIET)
    assert error_line(result).startswith("density must be in (0, 1], got 30")
    assert left_behind(tmp_path / "merged") == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"parameters": {"density": 30}}, "density must be in (0, 1], got 30"),
        ({"base_model": None}, "pcb needs base_model"),
    ],
    ids=["density", "base"],
)
def test_bad_recipe_in_mergekit_pytorch(
    change: dict, line: str, tmp_path: Path
) -> None:
    """With mergekit-pytorch it is the same lines, before anything is written."""
    base, tuned = save_family(tmp_path / "models", 2)
    files = [model.path / "model.safetensors" for model in (base, *tuned)]
    recipe = recipe_of(files[0], files[1:]) | change
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(merge_raw_pytorch.main, file, tmp_path / "merged", "--quiet")
    assert error_line(result).startswith(line)
    assert not (tmp_path / "merged").exists()


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    """A folder that does not exist is named as such, not as a bad name on the hub."""
    base, tuned = save_family(tmp_path / "models")
    recipe = recipe_of(base, tuned)
    recipe["models"][0]["model"] = str(tmp_path / "nowhere")
    line = failure(MERGEKIT_PCB, recipe, tmp_path)
    assert f"the folder `{tmp_path / 'nowhere'}` does not exist" in line
    assert not (tmp_path / "merged").exists()
