"""Statistics files that do not fit, would not be used, or cannot be written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.merge_methods import merge_state_dicts
from mergekit.scripts import run_yaml
from safetensors.torch import save_file

from mergekit_pcb import cli
from mergekit_pcb.errors import PCBError
from tests.plugin.statistics_recipes import MODEL, recipe, save
from tests.tiny import (
    QUIET,
    Model,
    error_line,
    invoke,
    merge,
    read,
    save_family,
    write_recipe,
)


def refusal(
    document: Any, folder: Path, *options: object, command: tuple = (run_yaml.main,)
) -> str:
    """The one line that a merge prints, which must leave nothing behind."""
    file = write_recipe(document, folder / "refused.yml")
    result = invoke(*command, file, folder / "refused", *QUIET, *options)
    assert not (folder / "refused").exists()
    return error_line(result)


# --- files that do not fit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inter": "pairwise"}, "it is for inter raw, this merge has pairwise"),
        ({"clamp": 0.25}, "it is for clamp 0.01, this merge has 0.25"),
        ({"density": 0.25}, "it knows nothing of {tuned[0].path} at density 0.25"),
        (
            {"scope": [{"filter": "mlp", "value": "tensor"}, {"value": "model"}]},
            "it is for tensors 21, this merge has 15",
        ),
    ],
)
def test_other_settings_are_refused(
    change: dict, reason: str, family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """A file for other settings is refused with the difference."""
    file = tmp_path / "statistics.json"
    save(family, file)
    line = refusal(recipe(family, statistics=str(file), **change), tmp_path)
    reason = reason.format(tuned=family[1])
    assert line == f"statistics file {file} does not fit: {reason}"


def one_model_less(base: Model, tuned: list[Model], folder: Path) -> str:
    tuned.pop()
    return "it is for 3 models, this merge has 2"


def one_layer_more(base: Model, tuned: list[Model], folder: Path) -> str:
    larger, others = save_family(folder, layers=3)
    base.__dict__.update(vars(larger))
    tuned[:] = others
    return "it is for tensors 21, this merge has 30"


def one_tensor_changed(base: Model, tuned: list[Model], folder: Path) -> str:
    _, others = save_family(folder)
    was, is_now = tuned[1].path, others[1].path
    tensors = dict(tuned[1].tensors)
    # The smallest change to a tensor of a thousandth of the model.
    tensors["model.norm.weight"] = tensors["model.norm.weight"].clone()
    tensors["model.norm.weight"][7] *= 1 + 2**-23
    save_file(tensors, is_now / "model.safetensors")
    tuned[1] = others[1]
    return f"the weights of {is_now}, or of the base, are not those of {was} then"


def base_changed(base: Model, tuned: list[Model], folder: Path) -> str:
    other, _ = save_family(folder, 0)
    tensors = {name: tensor.clone() for name, tensor in base.tensors.items()}
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, other.path / "model.safetensors")
    base.__dict__.update(vars(other))
    return f"the weights of {tuned[0].path}, or of the base, are not those of"


def another_order(base: Model, tuned: list[Model], folder: Path) -> str:
    tuned.reverse()
    return f"the weights of {tuned[0].path}, or of the base, are not those of"


@pytest.mark.parametrize(
    "change",
    [one_model_less, one_layer_more, one_tensor_changed, base_changed, another_order],
)
def test_other_models_are_refused(
    change: Callable[..., str], family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """A file for other models is refused with the difference."""
    file = tmp_path / "statistics.json"
    save(family, file)
    reason = change(*family, tmp_path / "changed")
    line = refusal(recipe(family, statistics=str(file)), tmp_path)
    assert line.startswith(f"statistics file {file} does not fit: {reason}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "statistics file {file}: No such file or directory"),
        (b"", "{file} is not a statistics file of mergekit-pcb"),
        (b"\x80\xff\x00", "{file} is not a statistics file of mergekit-pcb"),
        (b"density: 0.2", "{file} is not a statistics file of mergekit-pcb"),
        (b'{"inter": "raw"}', "{file} is not a statistics file of mergekit-pcb"),
    ],
    ids=["absent", "empty", "binary", "yaml", "other json"],
)
def test_files_that_are_none(
    content: bytes | None,
    reason: str,
    family: tuple[Model, list[Model]],
    tmp_path: Path,
) -> None:
    """What is not a file of statistics is named."""
    file = tmp_path / "statistics.json"
    if content is not None:
        file.write_bytes(content)
    line = refusal(recipe(family, statistics=str(file)), tmp_path)
    assert line == reason.format(file=file)


@pytest.mark.parametrize("damage", ["NaN", "negative", "projections"])
def test_damaged_numbers(
    damage: str, family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """They would end in a merge of nonsense, or in a traceback."""
    file = tmp_path / "statistics.json"
    save(family, file)
    content = json.loads(file.read_text())
    (statistics,) = content["models"][0]["statistics"].values()
    if damage == "NaN":
        statistics[2] = math.nan
    elif damage == "negative":
        statistics[0] = -1
    else:
        content["projections"][0]["projections"].pop()
    file.write_text(json.dumps(content))
    line = refusal(recipe(family, statistics=str(file)), tmp_path)
    assert line == f"{file} is damaged: write it again with --save-statistics"


@pytest.mark.parametrize(
    "change", [{"version": 1}, {"parameters": "many"}, {"models": {}}, {"more": 1}]
)
def test_files_of_another_version(
    change: dict, family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """A file with other fields, or of a later version, is not misread."""
    file = tmp_path / "statistics.json"
    save(family, file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    line = refusal(recipe(family, statistics=str(file)), tmp_path)
    other = "is not a statistics file of mergekit-pcb"
    if "version" in change:
        other = (
            "was written by another version of mergekit-pcb: write it again with "
            "--save-statistics"
        )
    assert line == f"{file} {other}"


def test_a_folder_is_no_file(family: tuple[Model, list[Model]], tmp_path: Path) -> None:
    """A folder instead of a file is named."""
    line = refusal(recipe(family, statistics=str(tmp_path)), tmp_path)
    assert line == f"statistics file {tmp_path} is a folder, not a file"


# --- statistics that would not be used ------------------------------------------------


def test_a_file_without_whole_model_scope(
    family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """A file that no tensor would use is an error, not ignored."""
    document = recipe(family, scope="tensor", statistics="some.json")
    line = refusal(document, tmp_path)
    assert line == (
        "statistics: some.json is of no use, no tensor of this recipe has scope: model"
    )


@pytest.mark.parametrize("method", ["pcb", "linear"])
def test_saving_without_whole_model_scope(
    method: str, family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """Statistics that nobody takes cannot be saved."""
    file = tmp_path / "statistics.json"
    document = recipe(family, scope="tensor", weight=1.0) | {"merge_method": method}
    if method == "linear":
        document["parameters"] = {"weight": 1.0}
    command = (cli.main, "merge")
    line = refusal(document, tmp_path, "--save-statistics", file, command=command)
    assert line == (
        f"there are no statistics to write to {file}: no tensor of this recipe has "
        "scope: model"
    )
    assert not file.exists()


def test_two_files_in_one_recipe(
    family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """One domain has one file."""
    files = [{"filter": "mlp", "value": "a.json"}, {"value": "b.json"}]
    line = refusal(recipe(family, statistics=files), tmp_path)
    assert line == (
        "statistics must be the same for all tensors under scope: model, "
        "got a.json and b.json"
    )


@pytest.mark.parametrize("value", [5, "", True])
def test_a_file_name_is_text(
    value: object, family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """What cannot be a file's name is said in one line."""
    line = refusal(recipe(family, statistics=value), tmp_path)
    assert line == f"statistics must be the name of a file, got {value!r}"


def test_tensors_in_memory_read_no_file(
    family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """merge_state_dicts takes statistics on the spot and says so."""
    base, tuned = family
    file = tmp_path / "statistics.json"
    save(family, file)
    models = [base.tensors, *(model.tensors for model in tuned)]
    parameters = MODEL | {"statistics": str(file)}
    with pytest.raises(PCBError, match="from a recipe only"):
        merge_state_dicts(models, "pcb", base=0, parameters=parameters)


# --- files that cannot be written -----------------------------------------------------


def test_a_file_that_cannot_be_written(
    family: tuple[Model, list[Model]], tmp_path: Path, sweeps: list[str]
) -> None:
    """Where no file can be, that is said before anything is read."""
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "statistics.json"
    command = (cli.main, "merge")
    line = refusal(
        recipe(family), tmp_path, "--save-statistics", target, command=command
    )
    assert str(tmp_path / "file") in line
    assert sweeps == []


def test_a_file_that_fails_later(
    family: tuple[Model, list[Model]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full by then is told in one line, and leaves the old file."""
    file = tmp_path / "statistics.json"
    file.write_text("old")

    def replace(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", replace)
    command = (cli.main, "merge")
    line = refusal(recipe(family), tmp_path, "--save-statistics", file, command=command)
    assert line == f"cannot write {file}: No space left on device"
    assert file.read_text() == "old"
    assert not list(tmp_path.glob(".statistics*"))


def test_a_refused_file_leaves_the_remembered(
    family: tuple[Model, list[Model]], tmp_path: Path, sweeps: list[str]
) -> None:
    """A file that does not fit is refused although the answer is known already."""
    file = tmp_path / "statistics.json"
    save(family, file, clamp=0.2)
    merge(run_yaml.main, recipe(family), tmp_path / "merged")
    done = len(sweeps)
    line = refusal(recipe(family, statistics=str(file)), tmp_path)
    assert "it is for clamp 0.2, this merge has 0.01" in line
    merge(run_yaml.main, recipe(family), tmp_path / "again")
    assert len(sweeps) == done
    assert torch.equal(
        read(tmp_path / "again")["model.norm.weight"],
        read(tmp_path / "merged")["model.norm.weight"],
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pipe", "is a pipe or a device, not a file"),
        ("device", "is a pipe or a device, not a file"),
        ("huge", "has 50,000 MB, more than the 20 MB"),
    ],
)
def test_what_is_no_file_is_not_read(
    kind: str, words: str, family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """It is refused at once, and before the weights are read."""
    file = tmp_path / "statistics.json"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        with file.open("wb") as sparse:
            sparse.truncate(50_000_000_000)
    line = refusal(recipe(family, statistics=str(file)), tmp_path)
    assert line.startswith(f"statistics file {file} ")
    assert words in line
