"""Rules that look at model folders on this machine, and never at weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from mergekit_pcb.check.linter import check_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _folder(name: str, **config: object) -> None:
    """A model folder with one tensor."""
    Path(name).mkdir()
    _weights(name, {"model.norm.weight": "F32"})
    written = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "vocab_size": 100,
        **config,
    }
    Path(name, "config.json").write_text(json.dumps(written))


def _weights(file: str, dtypes: dict[str, str]) -> None:
    """A safetensors file of tensors without values, for a folder or as a file."""
    header = {
        name: {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}
        for name, dtype in dtypes.items()
    }
    text = json.dumps(header).encode()
    path = Path(file)
    path = path / "model.safetensors" if path.is_dir() else path
    path.write_bytes(len(text).to_bytes(8, "little") + text)


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


@pytest.mark.parametrize("text", ["{", "", "[]", "\xff", "[" * 100_000])
def test_a_config_that_is_no_json(text: str) -> None:
    """The file is named; transformers would say so after the download."""
    _folder("base")
    _folder("math")
    Path("math", "config.json").write_text(text, encoding="latin-1")
    assert _line(TWO) == (
        "r.yml:3:12: error: math/config.json cannot be read as JSON: download it again"
    )


def test_a_config_that_is_a_pipe() -> None:
    """It is not waited for."""
    _folder("base")
    _folder("math")
    Path("math", "config.json").unlink()
    os.mkfifo("math/config.json")
    assert "math/config.json is a pipe or a device" in _line(TWO)


@pytest.mark.parametrize(
    ("names", "problem"),
    [(None, "no `architectures`"), ([], "no `architectures`"), (["A", "B"], "several")],
)
def test_a_config_without_its_architecture(names: object, problem: str) -> None:
    """Mergekit stops with a TypeError there."""
    _folder("base")
    _folder("math", architectures=names)
    line = _line(TWO)
    assert line.startswith(f"r.yml:3:12: error: math/config.json names {problem}")
    assert '"architectures": ["LlamaForCausalLM"]' in line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a git-LFS pointer"),
        (b"", "is empty"),
        (b"\x40" + b"\0" * 7 + b"{", "is cut off in its header"),
        (None, "has no weights"),
    ],
)
def test_a_damaged_weight_file(content: bytes | None, problem: str) -> None:
    """Once for each model, in the words of the merge, without the weights."""
    _folder("base")
    _folder("math")
    file = Path("base", "model.safetensors")
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    line = _line(TWO)
    assert line.startswith("r.yml:2:12: error: base")
    assert problem in line


def test_a_damaged_adapter() -> None:
    """The files of an adapter are looked at as well."""
    _folder("base")
    Path("lora").mkdir()
    Path("lora/adapter_model.safetensors").touch()
    text = "models:\n  - model: ./base+./lora\nmerge_method: passthrough\n"
    assert "lora/adapter_model.safetensors is empty" in _lines(text)[1]


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("dtypes", "problem"),
    [
        ({NORM: "I8"}, "is int8, the form of quantised weights"),
        ({NORM: "F8_E4M3", f"{NORM}_scale_inv": "F32"}, "is float8, the form of quan"),
        ({NORM: "F8_E4M3"}, "is float8, which cannot be merged as it is; write `dtype"),
        ({NORM: "F32", "model.layers.0.mlp.up_proj.qweight": "I32"}, "is a quantised"),
    ],
)
def test_quantised_weights(dtypes: dict[str, str], problem: str) -> None:
    """They are seen by the dtypes and names in the header."""
    _folder("base")
    _folder("math")
    _weights("math", dtypes)
    line = _line(TWO)
    assert line.startswith("r.yml:3:12: error: math/model.safetensors: model.")
    assert problem in line


def test_float8_with_a_dtype_is_merged() -> None:
    """The fix that is proposed is one."""
    _folder("base")
    _folder("math")
    _weights("math", {NORM: "F8_E4M3"})
    assert _lines(TWO + "dtype: bfloat16\n") == []


def test_a_configuration_that_says_quantised() -> None:
    """Of weights that are floats it is advice; of unknown ones an error."""
    _folder("base")
    _folder("math", quantization_config={"quant_method": "gptq"})
    assert "r.yml:3:12: advice: math/config.json has a `quantization_" in _line(TWO)
    Path("math/model.safetensors").unlink()
    Path("math/pytorch_model.bin").write_bytes(b"\x80\x02")
    assert "r.yml:3:12: error: math/config.json has a `quantization_" in _line(TWO)


def test_a_base_without_a_tensor() -> None:
    """Optional tensors that only other models have stop a merge with a base."""
    _folder("base")
    _folder("math")
    _weights("math", {NORM: "F32", "lm_head.weight": "F32"})
    assert _line(TWO) == (
        "r.yml:5:13: error: the base model `./base` lacks `lm_head.weight`, which "
        "`./math` has, and mergekit stops; take a base model that has the same tensors"
    )
    # Where the head is tied to the embeddings, either stands for both.
    _weights("base", {NORM: "F32", "model.embed_tokens.weight": "F32"})
    assert _lines(TWO) == []


def test_tensors_that_the_merge_drops() -> None:
    """Tensors outside mergekit's definition are named once."""
    for name in ("base", "math"):
        _folder(name)
        extra = ["model.mtp.0.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"]
        _weights(name, dict.fromkeys([NORM, *extra], "F32"))
    line = _line(TWO)
    assert line.startswith("r.yml:2:12: advice: the merged model will not have")
    assert "`model.mtp.0.weight` of `./base`" in line


def test_filters_are_looked_for_in_local_models() -> None:
    """Of models on this machine the names are known."""
    _folder("base")
    _folder("math")
    text = TWO + (
        "parameters:\n  density:\n    - {filter: layers.9., value: 0.2}\n"
        "    - value: 0.1\n"
    )
    assert "advice: no tensor of these models has `layers.9.` in its name" in _line(
        text
    )
    assert _lines(text.replace("layers.9.", "layers.3.")) == []


def test_models_beside_an_unreadable_config_are_compared() -> None:
    """One model that tells nothing does not hide that two others differ."""
    for name in ("base", "math", "code"):
        _folder(name, hidden_size=128 if name == "code" else 64)
    Path("base", "config.json").write_text("{")
    text = TWO.replace("merge_method", "  - model: ./code\nmerge_method")
    assert "`./code` has 128 hidden dimensions, `./math` 64" in _lines(text)[1]


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
    _weights("a.safetensors", {})
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


def test_a_folder_above_that_is_misspelt() -> None:
    """The nearest folder that exists has the rest of the path in it."""
    Path("models").mkdir()
    _folder("models/maths")
    text = "models:\n  - model: {}\nmerge_method: passthrough\n"
    assert _lines(text.format("modles/maths"))[0] == (
        "r.yml:2:12: advice: `modles/maths` is taken for a model on the hub; did you "
        "mean the folder `models/maths`?"
    )
    assert not _lines(text.format("modles/code"))
    assert "did you mean `./models/maths`?" in _line(text.format("./modles/maths"))


def test_a_folder_beside_the_recipe(tmp_path: Path) -> None:
    """A path without `./` is one all the same, if there is a model."""
    _folder("maths")
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    text = "models:\n  - model: maths\nmerge_method: passthrough\n"
    (finding,) = check_recipe(text, "../r.yml")
    assert "`maths` stands beside the recipe, but mergekit looks" in finding.message
    assert finding.fix.startswith(f"write `{tmp_path / 'maths'}`")


def test_the_home_of_somebody_unknown() -> None:
    """There is no path to write out; nothing else stops."""
    text = "models:\n  - model: ~nobody-here/model\nmerge_method: passthrough\n"
    (finding,) = check_recipe(text, "r.yml")
    assert finding.message == "mergekit does not expand `~` in `~nobody-here/model`"
    assert finding.fix == "write the whole path"


def test_missing_adapter_folder() -> None:
    """The adapter of `base+adapter` is looked for as well."""
    _folder("base")
    text = "models:\n  - model: ./base+./lora\nmerge_method: passthrough\n"
    assert _lines(text)[1] == (
        "r.yml:2:12: error: the adapter folder `./lora` does not exist; mend the path, "
        "or the folder it is in"
    )


@pytest.mark.parametrize(
    ("written", "problem", "meant"),
    [
        ("./mahts", "error: the folder `./mahts` does not exist", "`./maths`"),
        (
            "./maths+./mahts",
            "error: the adapter folder `./mahts` does not exist",
            "`./maths`",
        ),
        (
            "mahts",
            "advice: `mahts` is taken for a model on the hub",
            "the folder `maths`",
        ),
    ],
)
def test_near_folders_are_named(written: str, problem: str, meant: str) -> None:
    """What was meant is one of the folders beside it; the fix passes."""
    _folder("maths")
    text = "models:\n  - model: {}\nmerge_method: passthrough\n"
    found = _lines(text.format(written))
    assert f"r.yml:2:12: {problem}; did you mean {meant}?" in found
    assert not _lines(text.format("./maths"))
    assert not _lines(text.format("maths"))


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        *((name, True) for name in ("c++", "me@lab", "a+b@c", "x@y@z")),
        *((name, False) for name in ("x@y@z", "p+q+r")),
    ],
)
def test_paths_that_mergekit_reads_apart(name: str, is_there: bool) -> None:
    """Folders with `+` or `@` in their path need the long form, which is written."""
    for model in ("base", "math"):
        if is_there:
            Path(name).mkdir(exist_ok=True)
            _folder(f"{name}/{model}")
    text = TWO.replace("./", f"./{name}/")
    findings = check_recipe(text, "r.yml")
    assert len(findings) == 3
    recipe = yaml.safe_load(text)
    for found in findings:
        assert "with a revision or an adapter" in found.message
        key, _, value = (
            found.fix.removeprefix("write `").removesuffix("`").partition(": ")
        )
        holder = recipe["models"][int(found.path[7])] if key == "model" else recipe
        holder[key] = yaml.safe_load(value)
    assert recipe["base_model"] == {"model": {"path": f"./{name}/base"}}
    if is_there:
        assert _lines(yaml.safe_dump(recipe)) == []


def test_an_adapter_in_a_folder_that_is_read_apart() -> None:
    """Of `model+adapter` both parts are put where they belong."""
    Path("c++").mkdir()
    _folder("c++/base")
    Path("c++/lora").mkdir()
    text = "models:\n  - model: ./c++/base+./c++/lora\nmerge_method: passthrough\n"
    (finding,) = check_recipe(text, "r.yml")
    assert finding.fix == (
        "write `model: {lora: {path: ./c++/lora}, model: {path: ./c++/base}}`"
    )


@pytest.mark.parametrize("name", ["m@1.safetensors", "m+1.bin", "a+b@c/m.bin"])
def test_files_that_mergekit_pytorch_drops(name: str) -> None:
    """Their names are read apart after planning, and the model is left out."""
    Path("a+b@c").mkdir()
    for file in (name, "base.bin"):
        Path(file).write_bytes(b"\x80\x02")
    if name.endswith("safetensors"):
        _weights(name, {})
    text = (
        "merge_method: pcb\nbase_model: base.bin\nmodels:\n"
        f"  - model: {name}\n  - model: base.bin\n"
    )
    (finding,) = check_recipe(text, "r.yml")
    assert (finding.severity, finding.line) == ("error", 4)
    assert f"leaves `{name}` out of the merge in silence" in finding.message


@pytest.mark.parametrize("base", ["base", "./base/", "x/../base", ".//base", "link"])
def test_spellings_of_one_folder(base: str) -> None:
    """Mergekit takes them for two models, also where one is the base."""
    _folder("base")
    _folder("math")
    Path("x").mkdir()
    Path("link").symlink_to("base")
    text = TWO.replace("base_model: ./base", f"base_model: {base}")
    (line,) = [line for line in _lines(text) if "vocabular" not in line]
    assert "look like one model, and mergekit takes them for two" in line
