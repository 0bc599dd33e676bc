"""Rules that look at model folders on this machine, and never at weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mergekit_pcb.check.linter import check_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _folder(name: str, **config: object) -> None:
    """A model folder without weights."""
    Path(name).mkdir()
    written = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "vocab_size": 100,
        **config,
    }
    Path(name, "config.json").write_text(json.dumps(written))


def _lines(text: str) -> list[str]:
    return [str(finding) for finding in check_recipe(text, "r.yml")]


def _line(text: str) -> str:
    (line,) = _lines(text)
    return line


TWO = """\
models:
  - model: ./base
  - model: ./math
merge_method: pcb
base_model: ./base
"""


def test_folders_that_fit_are_fine() -> None:
    """Two local models of one shape raise no alarm."""
    _folder("base")
    _folder("math")
    assert _lines(TWO) == []


def test_vocabularies_differ() -> None:
    """Local models with different vocabularies need a tokenizer setting."""
    _folder("base")
    _folder("math", vocab_size=102)
    assert _line(TWO) == (
        "r.yml:3:12: error: `./math` has 102 tokens, `./base` 100, and nothing aligns "
        "them; write `tokenizer_source: base`, or `union`"
    )
    assert _lines(TWO + "tokenizer_source: base\n") == []


def test_vocabulary_of_a_middle_slice_does_not_matter() -> None:
    """Slices between the first and the last bring no embeddings."""
    _folder("base")
    _folder("math", vocab_size=102)
    outer = "  - sources:\n      - {model: ./base, layer_range: [0, 1]}\n"
    middle = (
        "  - sources:\n"
        "      - {model: ./base, layer_range: [1, 3]}\n"
        "      - {model: ./math, layer_range: [1, 3]}\n"
    )
    rest = "merge_method: linear\nparameters: {weight: 1}\n"
    assert _lines(f"slices:\n{outer}{middle}{outer}{rest}") == []
    assert len(_lines(f"slices:\n{middle}{outer}{rest}")) == 1


def test_layers_differ() -> None:
    """Whole models with different numbers of layers cannot be merged."""
    _folder("base")
    _folder("math", num_hidden_layers=6)
    assert _line(TWO) == (
        "r.yml:3:12: error: `./math` has 6 layers, `./base` 4; models of different "
        "shapes cannot be merged"
    )


def test_widths_differ() -> None:
    """Nor can models with different hidden dimensions."""
    _folder("base")
    _folder("math", hidden_size=128)
    assert _line(TWO) == (
        "r.yml:3:12: error: `./math` has 128 hidden dimensions, `./base` 64; models of "
        "different shapes cannot be merged"
    )


def test_layer_range_beyond_the_model() -> None:
    """A layer range ends where the model does."""
    _folder("base")
    text = (
        "slices:\n  - sources:\n      - model: ./base\n        layer_range: [2, 6]\n"
        "merge_method: passthrough\n"
    )
    assert _line(text) == (
        "r.yml:4:22: error: [2, 6] goes beyond `./base`, which has 4 layers; "
        "write `[2, 4]`"
    )


def test_layers_by_the_architecture_key() -> None:
    """The number of layers is read where mergekit's definition says it is."""
    _folder("base", architectures=["GPT2LMHeadModel"], model_type="gpt2", n_layer=2)
    text = "slices: [{sources: [{model: ./base, layer_range: [0, 3]}]}]\n"
    line = _line(text + "merge_method: passthrough\n")
    assert "which has 2 layers" in line


def test_module_of_another_architecture() -> None:
    """A module's name is one of mergekit's definition of the model."""
    _folder("base")
    text = (
        "modules:\n  text_decoder:\n    models:\n      - model: ./base\n"
        "merge_method: passthrough\n"
    )
    assert _line(text) == (
        "r.yml:2:3: error: `./base` has no module `text_decoder`; it has `default`"
    )


def test_adapter_in_place_of_a_model() -> None:
    """A LoRA adapter is no whole model."""
    _folder("base")
    Path("math").mkdir()
    Path("math", "adapter_config.json").touch()
    assert _line(TWO) == (
        "r.yml:3:12: error: `./math` is a LoRA adapter, not a whole model; write "
        "`base+./math` with the model it was trained on"
    )


def test_folder_without_a_config() -> None:
    """A folder without config.json is no model."""
    _folder("base")
    Path("math").mkdir()
    assert _line(TWO) == (
        "r.yml:3:12: error: the folder `./math` has no config.json; name a folder as "
        "`save_pretrained` writes it"
    )


def test_unreadable_config_is_no_reason_to_fail() -> None:
    """What a folder does not tell is not held against it."""
    _folder("base")
    _folder("math")
    Path("math", "config.json").write_text("{")
    assert _lines(TWO) == []


def test_models_beside_an_unreadable_config_are_compared() -> None:
    """One model that tells nothing does not hide that two others differ."""
    for name in ("base", "math", "code"):
        _folder(name, hidden_size=128 if name == "code" else 64)
    Path("base", "config.json").write_text("{")
    text = TWO.replace("merge_method", "  - model: ./code\nmerge_method")
    assert "`./code` has 128 hidden dimensions, `./math` 64" in _line(text)


def test_file_in_place_of_a_folder() -> None:
    """The command `mergekit-yaml` does not read single files."""
    _folder("base")
    Path("math").touch()
    assert _line(TWO) == (
        "r.yml:3:12: error: `./math` is a file, and mergekit-yaml reads whole model "
        "folders; name its folder, or use mergekit-pytorch for single files"
    )


def test_folder_in_place_of_a_file() -> None:
    """Nor does `mergekit-pytorch` read folders."""
    _folder("base")
    Path("a.safetensors").touch()
    text = "models:\n  - model: a.safetensors\nmerge_method: pcb\nbase_model: ./base\n"
    assert _line(text) == (
        "r.yml:4:13: error: `./base` is a folder, and mergekit-pytorch reads single "
        "files; name the file, or use mergekit-yaml"
    )


def test_folder_beside_the_recipe() -> None:
    """Mergekit looks from where it runs, not from where the recipe is."""
    Path("recipes/model").mkdir(parents=True)
    text = "models:\n  - model: ./model\nmerge_method: passthrough\n"
    (finding,) = check_recipe(text, "recipes/r.yml")
    assert finding.message == (
        "the folder `./model` stands beside the recipe, but mergekit looks for it in "
        "the folder where it runs"
    )
    assert str(Path("recipes/model").resolve()) in finding.fix


def test_home_is_not_expanded() -> None:
    """Mergekit takes `~` literally, so check writes out what was meant."""
    text = "models:\n  - model: ~/model\nmerge_method: passthrough\n"
    (finding,) = check_recipe(text, "r.yml")
    assert finding.message == "mergekit does not expand `~` in `~/model`"
    assert finding.fix == f"write `{Path('~/model').expanduser()}`"


def test_missing_adapter_folder() -> None:
    """The adapter of `base+adapter` is looked for as well."""
    _folder("base")
    text = "models:\n  - model: ./base+./lora\nmerge_method: passthrough\n"
    assert _lines(text)[1] == (
        "r.yml:2:12: error: the adapter folder `./lora` does not exist; mend the path, "
        "or the folder it is in"
    )
