"""The recipes in example_configs/paper/: the settings of published experiments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mergekit.scripts import run_yaml

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.kernel.domain import INTER_FORMS
from mergekit_pcb.plugin.parameters import PARAMETERS
from tests.kernel.test_official_outputs import FORMS
from tests.pages import ROOT, rows, text_of
from tests.test_example_configs import (
    assert_example,
    count_models,
    example_pytorch,
    fill_in,
)
from tests.tiny import merge, read, save_family, save_tokenizer, tensors_of

FOLDER = ROOT / "example_configs" / "paper"
PRESETS = sorted(FOLDER.glob("*.yml"))
DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS}
METHODS = ROOT / "docs" / "methods.md"
COPIES = ["published copy", "`inter`", "`clamp`", "`scope`", "recipe"]
EXPERIMENTS = ["recipe", "experiment", "`density`", "`lambda`", "`inter`", "reported"]


def table(headings: list[str]) -> list[list[str]]:
    """The lines of a table of docs/methods.md."""
    found = rows(METHODS)
    start = found.index(headings) + 2
    lines = []
    for row in found[start:]:
        if len(row) != len(headings):
            break
        lines.append(row)
    return lines


def settings(file: Path) -> dict[str, Any]:
    """All parameters of a preset, with what it leaves to the defaults."""
    return DEFAULTS | yaml.safe_load(file.read_text())["parameters"]


def test_docs_list_every_preset() -> None:
    """With its settings, and with what the paper reports in the recipe as well."""
    listed = table(EXPERIMENTS)
    assert sorted(name.strip("`") for name, *_ in listed) == [f.name for f in PRESETS]
    for name, _, density, scale, inter, reported in listed:
        file = FOLDER / name.strip("`")
        own = settings(file)
        assert float(density.split()[0]) == own["density"], name
        assert scale.split()[0] == str(own["lambda"]), name
        assert inter.strip("`") == own["inter"], name
        assert own["scope"] == "model"
        numbers = set(re.findall(r"\d+\.\d+", reported))
        assert numbers <= set(re.findall(r"\d+\.\d+", file.read_text())), name


def test_docs_say_which_setting_is_which_published_copy() -> None:
    """The forms that the outputs of the authors' code were compared with."""
    published = {
        (f"`{form['inter']}`", str(form["clamp"]), "`model`") for form in FORMS.values()
    }
    listed = table(COPIES)
    assert {tuple(row[1:4]) for row in listed} == published
    assert {row[1].strip("`") for row in listed} == set(INTER_FORMS)
    forms = {tuple(row[1:3]): row[4] for row in listed}
    for file in PRESETS:
        own = settings(file)
        form = (f"`{own['inter']}`", str(own["clamp"]))
        assert f"`{file.name}`" in forms[form], file.name


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_preset_has_nothing_wrong(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` is content, without a network, once the files are there."""
    monkeypatch.chdir(tmp_path)
    text = text_of(file)
    for name in re.findall(r"\S+\.safetensors", text):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    assert check_recipe(text, file.name) == []
    assert re.search(rf"^#   mergekit-\w+ {file.name} merged/", text, re.MULTILINE)


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_preset_merges_tiny_models(file: Path, tmp_path: Path) -> None:
    """With small models in place of those that it names, as the oracle has it."""
    recipe = yaml.safe_load(file.read_text())
    if ".safetensors" in file.read_text():
        example_pytorch([recipe], tmp_path)
        return
    base, tuned = save_family(tmp_path, count_models(recipe))
    for model in (base, *tuned):
        save_tokenizer(model.path)
    fill_in(recipe, base, tuned)
    out, _ = merge(run_yaml.main, recipe, tmp_path / "merged")
    assert_example(read(out), recipe, base.tensors, tensors_of(tuned))
