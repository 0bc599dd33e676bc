"""A file that is no checkpoint is named, with what it is and what to do."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from mergekit.io.lazy_tensor_loader import LazyTensorLoader, ShardedTensorIndex
from mergekit.scripts import run_yaml
from safetensors.torch import save_file

import mergekit_pcb  # noqa: F401  # wraps where the start-up file does not run
from mergekit_pcb import cli
from mergekit_pcb.plugin.checkpoint_files import checkpoint_problem
from tests.tiny import (
    QUIET,
    Model,
    error_line,
    invoke,
    recipe_of,
    save_family,
    write_recipe,
)

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def split(model: Model, lost: str = "") -> list[Path]:
    """Replace a model's file by two shards and an index, one tensor lost."""
    (model.path / "model.safetensors").unlink()
    names = sorted(model.tensors)
    places: dict[str, str] = {}
    shards = []
    for i in (0, 1):
        shards.append(model.path / f"model-0000{i + 1}-of-00002.safetensors")
        part = names[i::2]
        kept = {name: model.tensors[name] for name in part if name != lost}
        save_file(kept, shards[-1])
        places |= dict.fromkeys(part, shards[-1].name)
    index = model.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return shards


def whole(model: Model, content: bytes | str, name: str = "model.safetensors") -> Path:
    """Replace a model's file."""
    (model.path / "model.safetensors").unlink()
    file = model.path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def cut_off(model: Model) -> Path:
    file = model.path / "model.safetensors"
    return whole(model, file.read_bytes()[:-100])


def cut_off_in_header(model: Model) -> Path:
    file = model.path / "model.safetensors"
    return whole(model, file.read_bytes()[:50])


def cut_off_archive(model: Model) -> Path:
    file = model.path / "pytorch_model.bin"
    torch.save(model.tensors, file)
    return whole(model, file.read_bytes()[:9000], file.name)


def cut_off_pickle(model: Model, size: int) -> Path:
    file = model.path / "pytorch_model.bin"
    torch.save(model.tensors, file, _use_new_zipfile_serialization=False)
    return whole(model, file.read_bytes()[:size], file.name)


def changed_pickle(model: Model, old: bytes, new: bytes) -> Path:
    file = model.path / "pytorch_model.bin"
    torch.save(model.tensors, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    assert old in content
    return whole(model, content.replace(old, new), file.name)


def cut_off_pickle_as_shard(model: Model) -> Path:
    (model.path / "model.safetensors").unlink()
    file = model.path / "pytorch_model-00001-of-00001.bin"
    torch.save(model.tensors, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:60])
    index = model.path / "pytorch_model.bin.index.json"
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(model.tensors, file.name)})
    )
    return file


def header_of(**entry: object) -> Callable[[Model], Path]:
    text = json.dumps({"w": {"dtype": "F32", "shape": [1]} | entry}).encode()
    return lambda model: whole(model, struct.pack("<Q", len(text)) + text)


def pointer_as_shard(model: Model) -> Path:
    shard = split(model)[1]
    shard.write_text(POINTER)
    return shard


def missing_shard(model: Model) -> Path:
    shard = split(model)[1]
    shard.unlink()
    return shard


def broken_link(model: Model) -> Path:
    (model.path / "model.safetensors").unlink()
    (model.path / "model.safetensors").symlink_to(model.path / "gone")
    return model.path / "model.safetensors"


def pipe(model: Model) -> Path:
    (model.path / "model.safetensors").unlink()
    os.mkfifo(model.path / "model.safetensors")
    return model.path / "model.safetensors"


def device(model: Model) -> Path:
    (model.path / "model.safetensors").unlink()
    (model.path / "model.safetensors").symlink_to("/dev/zero")
    return model.path / "model.safetensors"


INDEX = "model.safetensors.index.json"
BROKEN: dict[str, tuple[Callable[[Model], Path], str]] = {
    "pointer": (lambda m: whole(m, POINTER), "is a git-LFS pointer"),
    "pointer.bin": (
        lambda m: whole(m, POINTER, "pytorch_model.bin"),
        "run `git lfs pull` there",
    ),
    "pointer as index": (lambda m: whole(m, POINTER, INDEX), "is a git-LFS pointer"),
    "pointer as shard": (pointer_as_shard, "is a git-LFS pointer"),
    "empty": (lambda m: whole(m, ""), "is empty: download it again"),
    "empty.bin": (lambda m: whole(m, "", "pytorch_model.bin"), "is empty"),
    "a page": (lambda m: whole(m, "<html>no</html>"), "is not a safetensors file"),
    "a page.bin": (
        lambda m: whole(m, "<html>no</html>", "pytorch_model.bin"),
        "is not a checkpoint of torch",
    ),
    "index without map": (lambda m: whole(m, "{}", INDEX), "no weight_map"),
    "index of a list": (lambda m: whole(m, "[1]", INDEX), "no weight_map"),
    "cut off": (cut_off, "is cut off after"),
    "cut off in header": (cut_off_in_header, "is cut off in its header"),
    "cut off archive": (cut_off_archive, "is cut off"),
    **{
        f"cut off pickle, {size} bytes": (partial(cut_off_pickle, size=size), "cut off")
        for size in (20, 60, 1000, 9000)
    },
    "no text in a pickle": (
        partial(changed_pickle, old=b"model.norm", new=b"\xff\xfe\xfd\xfc\xfb.norm"),
        "is damaged: download it again",
    ),
    "cut off pickle as shard": (cut_off_pickle_as_shard, "is cut off: download it"),
    "words in the header": (header_of(data_offsets=["a", "b"]), "is not a safetensors"),
    "no offsets": (header_of(), "is not a safetensors file"),
    "one offset": (header_of(data_offsets=[0]), "is not a safetensors file"),
    "missing shard": (missing_shard, "is missing: download it"),
    "broken link": (broken_link, "is a broken link"),
    "pipe": (pipe, "is a pipe, not a file of weights"),
    "device": (device, "is a device or socket, not a file of weights"),
}
each_fault = pytest.mark.parametrize("fault", BROKEN)


@each_fault
def test_the_file_and_the_fault_are_named(fault: str, tmp_path: Path) -> None:
    """In one line, without reading weights."""
    _, (model,) = save_family(tmp_path, 1)
    assert checkpoint_problem(model.path) is None
    break_it, words = BROKEN[fault]
    file = break_it(model)
    problem = checkpoint_problem(model.path, thorough="pickle" in fault)
    assert problem is not None
    assert problem.startswith(str(file))
    assert words in problem
    assert "\n" not in problem


@each_fault
@pytest.mark.parametrize("command", ["mergekit-yaml", "merge", "inspect"])
def test_every_command_says_the_same(command: str, fault: str, tmp_path: Path) -> None:
    """mergekit-yaml, merge and inspect end with that line and no output folder."""
    base, tuned = save_family(tmp_path / "models", 2)
    break_it, words = BROKEN[fault]
    file = break_it(tuned[1])
    recipe = write_recipe(recipe_of(base, tuned), tmp_path / "recipe.yml")
    arguments = {
        "mergekit-yaml": (run_yaml.main, recipe, tmp_path / "merged", *QUIET),
        "merge": (cli.main, "merge", recipe, tmp_path / "merged", *QUIET),
        "inspect": (cli.main, "inspect", recipe, "--quiet"),
    }[command]
    line = error_line(invoke(*arguments))
    assert f"tuned1/{file.name}" in line or "tuned1 has no weights" in line
    assert words in line or "has no weights" in line
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_a_tensor_that_only_the_index_knows(scope: str, tmp_path: Path) -> None:
    """It is missed before any weight is read."""
    base, tuned = save_family(tmp_path / "models", 2)
    lost = "model.norm.weight"
    split(tuned[1], lost)
    recipe = recipe_of(base, tuned, parameters={"scope": scope})
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    line = error_line(invoke(run_yaml.main, file, tmp_path / "merged", *QUIET))
    assert "tuned1/model-0000" in line
    assert f"has no tensor {lost}" in line


def test_a_folder_without_weights(tmp_path: Path) -> None:
    """It is named with what was looked for."""
    assert "neither model.safetensors nor pytorch_model.bin" in str(
        checkpoint_problem(tmp_path)
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_torch_are_fine(zipped: bool, tmp_path: Path) -> None:
    """In today's format, and in that of versions before 1.6."""
    file = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(3)}, file, _use_new_zipfile_serialization=zipped)
    assert checkpoint_problem(tmp_path, thorough=True) is None
    assert checkpoint_problem(file) is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "renamed.bin"])
def test_what_mergekit_cannot_read_lazily(name: str, tmp_path: Path) -> None:
    """Scalars, and archives that were renamed, are read as without --lazy-unpickle."""
    tensors = {"w": torch.linspace(0, 1, 7), "scalar": torch.tensor(3.0)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "pytorch_model.bin").rename(tmp_path / name)
    index = ShardedTensorIndex.from_file(str(tmp_path / name))
    loader = LazyTensorLoader(index, lazy_unpickle=True)
    for key, tensor in tensors.items():
        found = loader.get_tensor(key)
        assert found is not None
        assert torch.equal(found, tensor)
