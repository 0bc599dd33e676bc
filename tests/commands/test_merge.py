"""`mergekit-pcb merge`: what it refuses before it reads weights, and what it keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mergekit.card
import mergekit.merge
import pytest
import yaml
from mergekit.io.tensor_writer import TensorWriter
from safetensors import SafetensorError

from mergekit_pcb.commands.merge import _checked, merge
from mergekit_pcb.errors import PCBError
from tests import tiny
from tests.test_example_configs import save_adapter
from tests.tiny import (
    QUIET,
    Model,
    error_line,
    invoke,
    read,
    recipe_of,
    save_family,
    save_tokenizer,
    write_recipe,
)

ROOT = Path(__file__).parents[2]
RECIPES = [
    *ROOT.glob("tests/data/recipes/right/*.yml"),
    *ROOT.glob("example_configs/*.yml"),
]
OTHERS = {
    "multi.yml": "mergekit-multi",
    "multi_all_named.yml": "mergekit-multi",
    "pcb-vs-ties.yml": "mergekit-multi",
    "pcb-pytorch.yml": "mergekit-pytorch",
}

Family = tuple[Model, list[Model]]


@pytest.fixture
def family(tmp_path: Path) -> Family:
    return save_family(tmp_path, 2)


def save(family: Family, **more: Any) -> Path:
    """A recipe beside the models."""
    base, tuned = family
    return write_recipe(recipe_of(base, tuned, **more), base.path.parent / "recipe.yml")


# Before the merge


@pytest.mark.parametrize("recipe", sorted(RECIPES), ids=lambda path: path.name)
def test_right_recipes_are_refused_only_if_they_are_for_another_command(
    recipe: Path,
) -> None:
    """What mergekit-yaml takes is taken; else the line names the command."""
    if recipe.name in OTHERS:
        with pytest.raises(PCBError, match=f"run `{OTHERS[recipe.name]} "):
            _checked(str(recipe))
    else:
        config, models = _checked(str(recipe))
        assert set(config.referenced_models()) <= models


def test_errors_of_check_stop_the_merge_and_advice_does_not(
    family: Family, tmp_path: Path
) -> None:
    """A parameter that mergekit would ignore is an error; a large density is not."""
    line = error_line(invoke(merge, save(family, density=0.9), tmp_path / "out"))
    assert "recipe.yml:6:1: " in line
    assert "`density`" in line
    out, result = tiny.merge(
        merge, recipe_of(*family, parameters={"density": 0.9}), tmp_path / "out"
    )
    assert "advice" not in result.output
    assert (out / "model.safetensors").exists()


def test_an_option_that_allows_different_shapes_is_not_refused(tmp_path: Path) -> None:
    """Mergekit can cut vocabularies of different lengths to the shortest."""
    base, tuned = save_family(tmp_path, 1)
    wide = tiny.save_llama(tmp_path / "wide", tiny.llama_weights(3, vocab=70))
    recipe = recipe_of(base, [*tuned, wide])
    out = tmp_path / "out"
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    assert "nothing aligns them" in error_line(invoke(merge, file, out, *QUIET))
    tiny.merge(merge, recipe, out, "--unsafe-truncate-embeddings")
    assert len(read(out)["model.embed_tokens.weight"]) == tiny.VOCAB


def folder(path: Path) -> str:
    path.mkdir()
    return "is a folder"


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a pipe or a device"


def device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "is a pipe or a device"


def huge(path: Path) -> str:
    with path.open("wb") as file:
        file.truncate(10**10)
    return "has 10,000 MB"


def not_text(path: Path) -> str:
    path.write_bytes(b"merge_method: \xff")
    return "is not UTF-8 text"


@pytest.mark.parametrize("make", [folder, pipe, device, huge, not_text])
def test_what_is_no_recipe_is_not_read(
    make: Callable[[Path], str], tmp_path: Path
) -> None:
    """One line says what it is, and nothing is waited for."""
    recipe = tmp_path / "recipe.yml"
    says = make(recipe)
    line = error_line(invoke(merge, recipe, tmp_path / "out"))
    assert line.startswith(f"{recipe} {says}")


@pytest.mark.parametrize("place", ["tuned0", "base/", "link", "tuned1/merged", "."])
def test_an_input_is_not_overwritten(place: str, tmp_path: Path) -> None:
    """The output is no input, lies in none, and holds none."""
    family = save_family(tmp_path / "models", 2)
    recipe = save(family)
    (tmp_path / "models" / "link").symlink_to(tmp_path / "models" / "base")
    weights = [model.path / "model.safetensors" for model in (family[0], *family[1])]
    content = [file.read_bytes() for file in weights]
    before = sorted(tmp_path.rglob("*"))
    line = error_line(invoke(merge, recipe, f"{tmp_path}/models/{place}", *QUIET))
    assert "choose another output folder" in line
    assert sorted(tmp_path.rglob("*")) == before
    assert [file.read_bytes() for file in weights] == content


def test_an_adapter_is_an_input(family: Family, tmp_path: Path) -> None:
    """Its folder is not overwritten; its merged copy needs an option, and is used."""
    base, _ = family
    adapter = save_adapter(base, tmp_path / "adapter", seed=0)
    recipe = write_recipe(
        recipe_of(base, [f"{base.path}+{adapter}"]), tmp_path / "recipe.yml"
    )
    assert "choose another" in error_line(invoke(merge, recipe, adapter, *QUIET))
    out = tmp_path / "out"
    assert "--lora-merge-cache" in error_line(invoke(merge, recipe, out, *QUIET))
    cached = ("--lora-merge-cache", tmp_path / "cache")
    assert invoke(merge, recipe, out, *QUIET, *cached).exit_code == 0
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    line = error_line(invoke(merge, recipe, out, *QUIET, *cached))
    assert "adapter_model.safetensors is empty" in line


# Room


@pytest.mark.parametrize(
    ("dtypes", "itemsize"),
    [
        ({}, 4),
        ({"dtype": "bfloat16"}, 2),
        ({"dtype": "float32", "out_dtype": "float16"}, 2),
    ],
)
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_room_is_asked_for_before_weights_are_read(
    dtypes: dict[str, str],
    itemsize: int,
    scope: str,
    family: Family,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As much as the output's tensors have, in its dtype, and no more."""
    recipe = save(family, parameters={"scope": scope}, **dtypes)
    needed = itemsize * sum(t.numel() for t in family[0].tensors.values())
    usage = shutil.disk_usage(tmp_path)
    out = tmp_path / "out"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with monkeypatch.context() as patch:
        patch.setattr("mergekit.io.LazyTensorLoader.get_tensor", None)
        line = error_line(invoke(merge, recipe, out, *QUIET))
    assert f"{out} has " in line
    assert " free, and the merged weights need about " in line
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert invoke(merge, recipe, out, *QUIET).exit_code == 0


def test_slices_need_room_for_what_they_write(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of more layers than its inputs needs more than they have."""
    source = {"model": family[0], "layer_range": [0, 2]}
    slices = [{"sources": [source]}] * 3
    file = tmp_path / "recipe.yml"
    write_recipe({"merge_method": "passthrough", "slices": slices}, file)
    usage = shutil.disk_usage(tmp_path)
    own = (family[0].path / "model.safetensors").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=own))
    assert "merged weights need" in error_line(invoke(merge, file, tmp_path / "out"))


def test_a_disk_that_fills_up_is_one_line(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the output folder, of which nothing is left."""

    def full(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(TensorWriter, "_save_st", full)
    out = tmp_path / "outputs" / "out"
    line = error_line(invoke(merge, save(family), out, *QUIET))
    assert line == f"{out}: No space left on device"
    assert list(out.parent.iterdir()) == []


# After the weights


def fails(*_: Any, **__: Any) -> None:
    raise OSError("the reason")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("generate_card", "what comes after them are not complete"),
        ("_copy_tokenizer", "Failed to copy tokenizer"),
        ("_copy_tagalong_files", "files beside the weights were not copied"),
    ],
)
def test_finished_weights_are_kept(
    name: str,
    says: str,
    family: Family,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What fails after them is one line of warning, and the exit status is 0."""
    monkeypatch.setattr(mergekit.merge, name, fails)
    out = tmp_path / "out"
    result = invoke(merge, save(family), out, "--quiet")
    assert result.exit_code == 0, result.output
    assert read(out).keys() == family[0].tensors.keys()
    assert (out / "config.json").exists()
    warnings = [x for x in result.stderr.splitlines() if x.startswith("Warning: ")]
    assert any(says in x and x.endswith("(the reason)") for x in warnings)
    assert "Traceback" not in result.output


def test_a_chat_template_that_cannot_be_set_is_a_warning(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer is saved without it."""
    for model in (family[0], *family[1]):
        save_tokenizer(model.path)
    monkeypatch.setattr(mergekit.merge, "_set_chat_template", fails)
    recipe = save(family, tokenizer={"source": "base"})
    result = invoke(merge, recipe, tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.output
    assert "Warning: the chat template was not set (the reason)" in result.stderr
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_weights_are_kept_without_a_configuration(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning says that config.json is missing."""
    monkeypatch.setattr("transformers.PretrainedConfig.save_pretrained", fails)
    result = invoke(merge, save(family), tmp_path / "out", *QUIET)
    assert result.exit_code == 0, result.output
    assert "config.json and what comes after them are not complete" in result.stderr
    assert read(tmp_path / "out").keys() == family[0].tensors.keys()


def test_weights_that_are_still_to_be_completed_are_not_kept(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mergekit fills in tensors of some architectures at the very end."""
    monkeypatch.setattr(
        "mergekit.architecture.ModelArchitecture.post_fill_parameters",
        "org/base",
        raising=False,
    )
    monkeypatch.setattr(
        "mergekit.scripts.fill_missing_params.copy_and_fill_missing_params", fails
    )
    out = tmp_path / "outputs" / "out"
    assert error_line(invoke(merge, save(family), out, *QUIET)) == "the reason"
    assert list(out.parent.iterdir()) == []


def test_verbose_shows_what_failed_after_the_weights(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -v the traceback is printed as well."""
    monkeypatch.setattr(mergekit.merge, "_copy_tagalong_files", fails)
    result = invoke(merge, save(family), tmp_path / "out", *QUIET, "-v")
    assert result.exit_code == 0
    assert "Traceback" in result.stderr


def test_relative_paths_ask_no_hub(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of one level is not looked up as `owner/model` for the model card."""
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr("huggingface_hub.repo_exists", fails)
    for model in (family[0], *family[1]):
        save_tokenizer(model.path)
    names = [f"{tmp_path.name}/{m.path.name}" for m in (family[0], *family[1])]
    recipe = write_recipe(recipe_of(names[0], names[1:]), tmp_path / "recipe.yml")
    result = invoke(merge, recipe, tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == []
    assert names[1] in card
    assert mergekit.card.is_hf("org/elsewhere")


# Signals

SLOW = """
import sys, time
from pathlib import Path
from mergekit.io.tensor_writer import TensorWriter
from mergekit_pcb.cli import main

save = TensorWriter._save_st
def save_and_wait(self, data, path):
    save(self, data, path)
    Path(sys.argv.pop()).touch()
    while True:
        time.sleep(0.01)

TensorWriter._save_st = save_and_wait
main(sys.argv[1:-1])
"""


def test_sigterm_is_answered_like_ctrl_c(family: Family, tmp_path: Path) -> None:
    """A merge that is terminated while it writes leaves nothing."""
    out, writes = tmp_path / "outputs" / "out", tmp_path / "writes"
    arguments = ["merge", save(family), out, *QUIET, writes]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        while not writes.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "Aborted!"
    assert list(out.parent.iterdir()) == []
