"""Models of a recipe, whatever is in their paths and however they are spelt."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from mergekit.config import MergeConfiguration

from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes.models import (
    as_written,
    local_folders,
    located,
    named,
    reference,
)

NAMES = ["plain", "with space", "c++", "me@lab", "a+b@c", "ünï", 'quote"d']


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_itself_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below any folder, what is written is read by mergekit as that folder."""
    home = tmp_path / name
    (home / "base").mkdir(parents=True)
    monkeypatch.chdir(home)
    model = located("./base")
    assert local_folders(model) == [home / "base"]
    recipe = {
        "merge_method": "pcb",
        "base_model": as_written(model),
        "models": [{"model": as_written(model)}],
    }
    read = MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(recipe)))
    assert read.base_model == model
    assert read.models is not None
    assert read.models[0].model == model


@pytest.mark.parametrize(
    "spelling", ["base", "./base", "base/", ".//base", "x/../base", "./base/.", "link"]
)
def test_spellings_of_a_folder_are_one_model(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trailing slashes, dots and links do not make another model."""
    (tmp_path / "base").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("base")
    monkeypatch.chdir(tmp_path)
    assert located(spelling) == located(str(tmp_path / "base"))


def test_adapters_are_located_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both parts are files of the model."""
    for name in ("base", "lora"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    model = located("base+./lora/")
    assert model == located({"model": {"path": "base"}, "lora": {"path": "lora"}})
    assert local_folders(model) == [tmp_path / "base", tmp_path / "lora"]


@pytest.mark.parametrize(
    "text", ["org/a", "org/a@v1", "org/a+org/b", "org/a@v1+org/b@2"]
)
def test_names_on_the_hub_stay_text(text: str) -> None:
    """They are no folders here."""
    assert as_written(located(text)) == text
    assert local_folders(located(text)) == []


@pytest.mark.parametrize("text", ["a@b@c", "a+b+c"])
def test_text_that_mergekit_cannot_read(text: str) -> None:
    """One line says how to write it."""
    with pytest.raises(PCBError, match="needs the long form"):
        reference(text)


def test_named_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is a folder, and told from a name on the hub; the rest is read."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a/b", "x@y+z"):
        Path(folder).mkdir(parents=True)
    assert as_written(named("a/b")) == "./a/b"
    assert as_written(named("./a/b")) == "./a/b"
    assert as_written(named("org/model@v1+a/b")) == "org/model@v1+./a/b"
    assert as_written(named("x@y+z")) == {"model": {"path": "./x@y+z"}}
    assert as_written(named(str(tmp_path / "a"))) == str(tmp_path / "a")
    with pytest.raises(PCBError, match="needs the long form"):
        named("a+b+c")
