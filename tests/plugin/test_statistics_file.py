"""Whole-model statistics kept for another merge, in the process and in files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mergekit.merge_methods import merge_state_dicts
from mergekit.scripts import merge_raw_pytorch, run_yaml
from safetensors.torch import save_file

from mergekit_pcb import cli
from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.formula import ModelStatistics
from mergekit_pcb.plugin import statistics_file
from mergekit_pcb.plugin.graph_scope import GraphDomain
from mergekit_pcb.plugin.statistics_file import ModelEntry, StatisticsFile
from tests.tiny import (
    QUIET,
    Model,
    assert_same,
    invoke,
    merge,
    read,
    recipe_of,
    same,
    save_family,
    write_recipe,
)

MODEL = {"scope": "model", "density": 0.2}


@pytest.fixture
def family(tmp_path: Path) -> tuple[Model, list[Model]]:
    """A base and three fine-tunes."""
    return save_family(tmp_path / "models")


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statistics passes that are made, by what they look at."""
    made: list[str] = []
    original = GraphDomain.sweep

    def sweep(self, scoring, search):
        made.append("magnitudes" if scoring is None else "scores")
        return original(self, scoring, search)

    monkeypatch.setattr(GraphDomain, "sweep", sweep)
    return made


def recipe(family: tuple[Model, list[Model]], **parameters: Any) -> dict[str, Any]:
    base, tuned = family
    return recipe_of(base, tuned, parameters=MODEL | parameters)


def save(family: tuple[Model, list[Model]], file: Path, **parameters: Any) -> Path:
    """Merge with `mergekit-pcb merge` and keep the statistics; give the model."""
    out = file.with_suffix(".merged")
    document = write_recipe(recipe(family, **parameters), file.with_suffix(".yml"))
    options = (*QUIET, "--save-statistics", file)
    result = invoke(cli.main, "merge", document, out, *options)
    assert result.exception is None, result.output
    statistics_file._remembered.clear()
    return out


def refusal(
    document: Any, folder: Path, *options: object, command: tuple = (run_yaml.main,)
) -> str:
    """The one line that a merge prints, which must leave nothing behind."""
    file = write_recipe(document, folder / "refused.yml")
    result = invoke(*command, file, folder / "refused", *QUIET, *options)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback, not a line"
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("Error: ")]
    assert not (folder / "refused").exists()
    return line.removeprefix("Error: ")


# --- in one process -------------------------------------------------------------------


def test_other_weights_and_lambda_need_no_statistics(
    family: tuple[Model, list[Model]], tmp_path: Path, sweeps: list[str]
) -> None:
    """A second merge with other weights sweeps nothing, and gives the same bits."""
    merge(run_yaml.main, recipe(family), tmp_path / "first")
    assert sweeps == ["magnitudes", "scores"]
    changed = recipe(family, weight=[0.5, 1.5], **{"lambda": 0.7})
    again, _ = merge(run_yaml.main, changed, tmp_path / "again")
    assert len(sweeps) == 2
    statistics_file._remembered.clear()
    anew, _ = merge(run_yaml.main, changed, tmp_path / "anew")
    assert len(sweeps) == 4
    assert_same(read(again), read(anew))
    assert not same(
        read(again)["lm_head.weight"], read(tmp_path / "first")["lm_head.weight"]
    )


@pytest.mark.parametrize(
    "change", [{"density": 0.3}, {"inter": "pairwise"}, {"clamp": 0.1}]
)
def test_other_settings_need_other_statistics(
    change: dict,
    family: tuple[Model, list[Model]],
    tmp_path: Path,
    sweeps: list[str],
) -> None:
    """Another density, form or clamp is swept for; the former is still known."""
    merge(run_yaml.main, recipe(family), tmp_path / "first")
    merge(run_yaml.main, recipe(family, **change), tmp_path / "second")
    assert len(sweeps) == 4
    merge(run_yaml.main, recipe(family), tmp_path / "third")
    assert len(sweeps) == 4


def test_models_are_known_by_their_weights(
    family: tuple[Model, list[Model]], tmp_path: Path, sweeps: list[str]
) -> None:
    """Copies under other names are the same models; what changed under a name, not."""
    _, tuned = family
    merge(run_yaml.main, recipe(family), tmp_path / "first")
    copies = save_family(tmp_path / "copies")
    merge(run_yaml.main, recipe(copies), tmp_path / "second")
    assert len(sweeps) == 2
    # Loaders keep files open by name, so a file is changed in another process's place.
    tensors = {name: tensor.clone() for name, tensor in tuned[0].tensors.items()}
    tensors["model.norm.weight"][3] += 1
    changed = save_family(tmp_path / "changed")
    save_file(tensors, changed[1][0].path / "model.safetensors")
    merge(run_yaml.main, recipe(changed), tmp_path / "third")
    assert len(sweeps) == 4


def test_few_are_remembered(
    family: tuple[Model, list[Model]],
    tmp_path: Path,
    sweeps: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long search does not fill the memory: the oldest are forgotten."""
    monkeypatch.setattr(statistics_file, "_REMEMBERED", 2)
    for i, density in enumerate((0.1, 0.2, 0.3, 0.3)):
        merge(run_yaml.main, recipe(family, density=density), tmp_path / f"{i}")
    assert len(statistics_file._remembered) == 2
    assert len(sweeps) == 6
    merge(run_yaml.main, recipe(family, density=0.1), tmp_path / "again")
    assert len(sweeps) == 8


# --- in files -------------------------------------------------------------------------


def test_a_saved_file_saves_the_statistics(
    family: tuple[Model, list[Model]], tmp_path: Path, sweeps: list[str]
) -> None:
    """A recipe that names a saved file sweeps nothing, and gives the same bits."""
    file = tmp_path / "statistics.json"
    by_us = save(family, file)
    assert len(sweeps) == 2
    document = recipe(family, statistics=str(file))
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    assert len(sweeps) == 2
    assert_same(read(out), read(by_us))


def test_a_file_holds_any_number_of_densities(
    family: tuple[Model, list[Model]], tmp_path: Path, sweeps: list[str]
) -> None:
    """A file made with a gradient serves each of its densities."""
    file = tmp_path / "statistics.json"
    save(family, file, density=[0.2, 0.4])
    sweeps.clear()
    for density in (0.2, 0.4):
        document = recipe(family, density=density)
        expected, _ = merge(run_yaml.main, document, tmp_path / f"a{density}")
        document["parameters"]["statistics"] = str(file)
        out, _ = merge(run_yaml.main, document, tmp_path / f"b{density}")
        assert_same(read(out), read(expected))
    assert len(sweeps) == 4


def test_a_file_serves_mergekit_pytorch(
    family: tuple[Model, list[Model]], tmp_path: Path, sweeps: list[str]
) -> None:
    """Statistics of a recipe's models serve the same tensors as mere files."""
    base, tuned = family
    file = tmp_path / "statistics.json"
    by_us = save(family, file)
    files = [model.path / "model.safetensors" for model in (base, *tuned)]
    settings = MODEL | {"statistics": str(file)}
    document = recipe_of(files[0], files[1:], parameters=settings)
    out, _ = merge(merge_raw_pytorch.main, document, tmp_path / "merged")
    assert len(sweeps) == 2
    assert_same(read(out), read(by_us))


def test_statistics_can_be_read_and_saved_at_once(
    family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """What was read is what is saved."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    save(family, first)
    save(family, second, statistics=str(first))
    assert second.read_text() == first.read_text()


floats = st.floats(allow_nan=False)


@given(
    density=st.dictionaries(
        st.floats(0, 1, exclude_min=True),
        st.builds(ModelStatistics, floats, floats, floats, floats),
        min_size=1,
    ),
    clamp=st.floats(0, 0.5, exclude_max=True),
)
def test_files_are_exact(density: dict, clamp: float) -> None:
    """Every number comes back as it was, infinite ones and densities included."""
    entry = ModelEntry(name="ä", digest="", statistics=density)
    written = StatisticsFile(
        inter="raw", clamp=clamp, tensors=1, parameters=1, models=[entry]
    )
    text = written.model_dump_json(indent=1)
    assert StatisticsFile.model_validate_json(text) == written


def test_a_model_that_never_competes_survives_a_file(tmp_path: Path) -> None:
    """An untouched model's infinite threshold is written and read."""
    base, tuned = save_family(tmp_path / "models", 2)
    unchanged = Model(base.path.with_name("unchanged"), base.tensors)
    unchanged.path.symlink_to(base.path)
    family = (base, [*tuned, unchanged])
    file = tmp_path / "statistics.json"
    by_us = save(family, file)
    assert math.inf in json.loads(file.read_text())["models"][2]["statistics"]["0.2"]
    document = recipe(family, statistics=str(file))
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    assert_same(read(out), read(by_us))


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


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"parameters": "many"}, {"models": {}}, {"more": 1}]
)
def test_files_of_another_version(
    change: dict, family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """A file with other fields, or of a later version, is not misread."""
    file = tmp_path / "statistics.json"
    save(family, file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    line = refusal(recipe(family, statistics=str(file)), tmp_path)
    assert line == f"{file} is not a statistics file of mergekit-pcb"


def test_a_folder_is_no_file(family: tuple[Model, list[Model]], tmp_path: Path) -> None:
    """A folder instead of a file is named."""
    line = refusal(recipe(family, statistics=str(tmp_path)), tmp_path)
    assert line == f"statistics file {tmp_path}: Is a directory"


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


def test_folders_of_a_file_are_made(
    family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """A file in a folder that does not exist yet is written all the same."""
    document = write_recipe(recipe(family), tmp_path / "recipe.yml")
    file = tmp_path / "new" / "newer" / "statistics.json"
    options = (*QUIET, "--save-statistics", file)
    result = invoke(cli.main, "merge", document, tmp_path / "merged", *options)
    assert result.exception is None, result.output
    assert [path.name for path in file.parent.iterdir()] == ["statistics.json"]


def test_saving_is_over_with_the_command(
    family: tuple[Model, list[Model]], tmp_path: Path
) -> None:
    """A later merge in the same process writes no file."""
    file = tmp_path / "statistics.json"
    save(family, file)
    file.unlink()
    merge(run_yaml.main, recipe(family), tmp_path / "merged")
    assert not file.exists()


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
