"""The models of a comparison, and what a recipe calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mergekit.config import MergeConfiguration

from mergekit_pcb.compare.candidates import candidates
from mergekit_pcb.compare.inputs import inputs_of
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes.edits import with_absolute_paths
from tests.compare.test_candidates import MODELS, recipe


def test_a_recipe_without_a_base_is_refused() -> None:
    """The base is a row of the table."""
    document = recipe("linear", weight=1.0)
    del document["base_model"]
    with pytest.raises(PCBError, match="add the model"):
        inputs_of(document)


def test_models_are_called_by_what_tells_them_apart() -> None:
    """Rows have short names, longer where two end alike."""
    models = [{"model": m} for m in ("/runs/a/final", "/runs/b/final", "org/chat")]
    experts = inputs_of(recipe(models=models)).experts
    assert list(experts) == ["a/final", "b/final", "chat"]


def test_two_spellings_of_a_folder_are_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links, `..`, a trailing slash and the long form name the folder they lead to."""
    home = tmp_path / "c++" / "me@lab, my models"
    for name in ("base", "a", "b"):
        (home / name).mkdir(parents=True)
    (home / "link").symlink_to(home / "base")
    monkeypatch.chdir(home)
    document = {
        "merge_method": "pcb",
        "base_model": "./base/",
        "models": [
            {"model": model}
            for model in ("a/../base", "link", "a/", {"model": {"path": "b"}}, "./a")
        ],
    }
    moved = with_absolute_paths(document)
    inputs = inputs_of(moved)
    assert [Path(model.model.path) for model in inputs.models] == [
        home / "base",
        home / "a",
        home / "b",
    ]
    assert list(inputs.experts) == ["a", "b"]
    assert not any(model.lora or model.model.revision for model in inputs.models)
    long_form = {"model": {"path": str(home / "base")}}
    assert moved["base_model"] == long_form
    (linear,) = candidates(moved, ["linear"])
    assert [e["model"] for e in linear.recipe["models"]][:2] == [long_form] * 2
    config = MergeConfiguration.model_validate(linear.recipe)
    assert config.base_model == inputs.base


def test_a_link_names_its_model(tmp_path: Path) -> None:
    """As the recipe does; the model is the one that it leads to."""
    for name in ("base", "run1/checkpoint-500", "run2/checkpoint-500"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "math").symlink_to(tmp_path / "run1" / "checkpoint-500")
    models = [{"model": str(tmp_path / m)} for m in ("math", "run2/checkpoint-500")]
    document = recipe(models=models) | {"base_model": str(tmp_path / "base")}
    inputs = inputs_of(document)
    assert list(inputs.experts) == ["math", "checkpoint-500"]
    found = Path(inputs.experts["math"].model.path)
    assert found == tmp_path / "run1" / "checkpoint-500"


def test_an_adapter_keeps_its_two_parts(tmp_path: Path) -> None:
    """Both paths of a model with an adapter become absolute; a revision stays."""
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
    document = recipe(
        models=[
            {"model": f"{tmp_path}/base/+{tmp_path}/./adapter"},
            {"model": "org/b@v1"},
        ]
    )
    moved = with_absolute_paths(document)
    assert moved["models"] == [
        {"model": f"{tmp_path}/base+{tmp_path}/adapter"},
        {"model": "org/b@v1"},
    ]


def test_a_recipe_of_the_base_alone_is_refused() -> None:
    """There is nothing to compare, and no table of nothing."""
    with pytest.raises(PCBError, match="no model beside the base, org/base"):
        inputs_of(recipe(models=[{"model": MODELS[0]}]))


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        ({}, False),
        ({"tokenizer": {"source": "base"}}, False),
        ({"tokenizer_source": "org/base"}, False),
        ({"tokenizer_source": "union"}, True),
        ({"tokenizer": {"source": "org/a"}}, True),
        ({"tokenizer": {"source": "base", "pad_to_multiple_of": 64}}, True),
        ({"tokenizer": {}}, True),
    ],
)
def test_merges_may_have_a_vocabulary_of_their_own(settings: Any, own: bool) -> None:
    """Then rows of embeddings are not those of the base."""
    document = recipe()
    del document["tokenizer"]
    assert inputs_of(document | settings).own_vocabulary is own


def test_local_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model here gets its whole path; one on the hub keeps its name."""
    (tmp_path / "models" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    document = recipe(models=[{"model": "models/a"}, {"model": "org/b"}])
    moved = with_absolute_paths(document)
    assert moved["models"] == [
        {"model": str(tmp_path / "models" / "a")},
        {"model": "org/b"},
    ]
    assert moved["tokenizer"] == {"source": "base"}
