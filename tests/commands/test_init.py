"""The command `mergekit-pcb init`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from mergekit.scripts import run_yaml

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.cli import main
from tests.tiny import (
    QUIET,
    VOCAB,
    error_line,
    fine_tune,
    invoke,
    llama_weights,
    save_family,
    save_llama,
    save_tokenizer,
)

HUB = ("org/base", "org/math", "org/code@v2")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["init", *arguments])


def test_models_of_the_hub() -> None:
    """A recipe without parameters that passes check, and the two next commands."""
    result = run(*HUB)
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout) == {
        "merge_method": "pcb",
        "base_model": "org/base",
        "models": [{"model": "org/math"}, {"model": "org/code@v2"}],
        "tokenizer": {"source": "base"},
        "dtype": "bfloat16",
    }
    assert check_recipe(result.stdout, "recipe.yml") == []
    assert result.stderr.splitlines()[1:] == [
        "  mergekit-pcb check recipe.yml",
        "  mergekit-yaml recipe.yml merged/",
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_local_models_merge_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    """The dtype is the base's, and mergekit-yaml merges the file."""
    save_family(tmp_path / "models", 2, dtype=dtype)
    config = Path("models/base/config.json")
    name = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": name}))
    models = [f"models/{name}" for name in ("base", "tuned0", "tuned1")]
    result = run(*models, "--out", "recipe.yml")
    assert result.stderr.startswith("recipe.yml: written; next:\n")
    recipe = yaml.safe_load(Path("recipe.yml").read_text())
    assert recipe["dtype"] == name
    # mergekit would ask the hub about `models/base`.
    assert recipe["base_model"] == "./models/base"
    assert set(recipe) == {"merge_method", "base_model", "models", "dtype"}
    merged = invoke(run_yaml.main, "recipe.yml", "merged", *QUIET)
    assert merged.exception is None, merged.output


def test_a_larger_vocabulary(tmp_path: Path) -> None:
    """The tokenizer is named where embeddings differ, so that the recipe passes."""
    base = save_llama(tmp_path / "base", llama_weights())
    wide = fine_tune(llama_weights(vocab=VOCAB + 1), 1)
    save_llama(tmp_path / "wide", wide)
    save_tokenizer(base.path)
    save_tokenizer(tmp_path / "wide", ["added"])
    result = run("base", "wide")
    assert yaml.safe_load(result.stdout)["tokenizer"] == {"source": "base"}
    assert check_recipe(result.stdout, "recipe.yml") == []


def test_adapters(tmp_path: Path) -> None:
    """`base+adapter` merges in float32, with the options that mergekit needs."""
    (tmp_path / "ad").mkdir()
    Path("ad/adapter_config.json").write_text("{}")
    result = run("org/base", "org/base+ad", "org/base+org/other")
    recipe = yaml.safe_load(result.stdout)
    assert [entry["model"] for entry in recipe["models"]] == [
        "org/base+./ad",
        "org/base+org/other",
    ]
    assert (recipe["dtype"], recipe["out_dtype"]) == ("float32", "bfloat16")
    assert result.stderr.splitlines()[-1] == (
        "  mergekit-yaml recipe.yml merged/ --lora-merge-cache adapters/ "
        "--lora-merge-dtype float32"
    )
    assert "--lora-merge-cache" not in "".join(result.stderr.splitlines()[:-1])


def test_a_folder_with_a_plus_in_its_name(tmp_path: Path) -> None:
    """It is a folder, and no adapter."""
    save_llama(tmp_path / "a+b", llama_weights())
    save_llama(tmp_path / "base", llama_weights())
    recipe = yaml.safe_load(run("base", "a+b").stdout)
    assert recipe["models"] == [{"model": {"model": {"path": "./a+b"}}}]


def test_one_line_errors(tmp_path: Path) -> None:
    """What is no model is named, with what was probably meant."""
    save_family(tmp_path / "models", 2)
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text("{}")
    Path("empty").mkdir()
    for arguments, line in {
        ("org/base", "./models/tuned"): "there is no folder ./models/tuned: did you",
        ("./nowhere/x", "org/math"): "there is no folder ./nowhere/x: mend the path",
        ("org/base", "org/base"): "org/base is the base, and listed as a model too",
        ("org/base", "org/math", "org/math"): "org/math is listed twice: leave one out",
        ("org/base", "adapter"): "`./adapter` is a LoRA adapter, not a whole model: ",
        ("org/base", "empty"): "the folder `./empty` has no config.json",
        ("org/base", "org/x+empty"): "the folder `./empty` has no adapter_config.json",
        ("org/base", "a/b/c"): "`a/b/c` is neither a folder here nor a name on the",
        ("org/base", "a+b+c"): "mergekit cannot read the model `a+b+c`",
    }.items():
        result = run(*arguments, "--out", "recipe.yml")
        assert error_line(result).startswith(line), (arguments, result.output)
        assert not Path("recipe.yml").exists()
    assert (
        "`./models/tuned0` or `./models/tuned1`" in run("a/b", "./models/tuned").output
    )


def test_near_names_are_notes(tmp_path: Path) -> None:
    """A name on the hub may look like a folder here."""
    save_family(tmp_path, 1)
    result = run("org/base", "tuned")
    assert result.exit_code == 0
    assert result.stderr.count("taken for a model") == 1
    assert result.stderr.startswith(
        "note: `tuned` is taken for a model on the hub: did you mean the folder "
        "`tuned0`?"
    )


def test_one_model_is_told_that_it_is_alone() -> None:
    """It is allowed."""
    assert "nobody to compete with" in run("org/base", "org/math").stderr


def test_nothing_is_replaced() -> None:
    """Unless it is forced."""
    Path("recipe.yml").write_text("mine")
    assert "recipe.yml exists" in error_line(run(*HUB, "--out", "recipe.yml"))
    assert Path("recipe.yml").read_text() == "mine"
    assert run(*HUB, "--out", "recipe.yml", "--force").exit_code == 0
    assert "pcb" in Path("recipe.yml").read_text()


def test_bad_use() -> None:
    """Without models there is nothing to write."""
    assert run("org/base").exit_code == 2
