"""Whole-model statistics kept for another merge, in the process and in files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mergekit.scripts import merge_raw_pytorch, run_yaml
from safetensors.torch import save_file

from mergekit_pcb import cli
from mergekit_pcb.kernel.domain import ModelStatistics
from mergekit_pcb.plugin import statistics_file
from mergekit_pcb.plugin.statistics_file import (
    ModelEntry,
    ProjectionEntry,
    StatisticsFile,
)
from tests.plugin.statistics_recipes import MODEL, recipe, save
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
    statistics_file._cache.clear()
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
    monkeypatch.setattr(statistics_file, "_CACHE_SIZE", 2)
    for i, density in enumerate((0.1, 0.2, 0.3, 0.3)):
        merge(run_yaml.main, recipe(family, density=density), tmp_path / f"{i}")
    assert len(statistics_file._cache) == 2
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
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    density=st.dictionaries(
        st.floats(0, 1, exclude_min=True),
        st.builds(ModelStatistics, floats, floats, floats, floats),
        min_size=1,
    ),
    clamp=st.floats(0, 0.5, exclude_max=True),
    projections=st.lists(
        st.builds(
            ProjectionEntry,
            density=st.tuples(finite, finite),
            projections=st.lists(finite),
        )
    ),
)
def test_files_are_exact(
    density: dict, clamp: float, projections: list[ProjectionEntry]
) -> None:
    """Every number comes back as it was, infinite ones and densities included."""
    entry = ModelEntry(name="ä", digest="", statistics=density)
    written = StatisticsFile(
        inter="raw",
        clamp=clamp,
        tensors=1,
        parameters=1,
        models=[entry],
        projections=projections,
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
