"""Recipes of other methods as `pcb` recipes that mean the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mergekit.config import MergeConfiguration
from mergekit.scripts import run_yaml

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.convert.conversion import convert_recipe
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import DEFAULT_DENSITY
from tests.tiny import QUIET, assert_same, invoke, merge, read, recipe_of, save_family

ROOT = Path(__file__).parents[2]
RIGHT = ROOT / "tests" / "data" / "recipes" / "right"
EXAMPLES = ROOT / "example_configs"

# Of these nothing can be made without asking: why, and the base that settles it.
NEED_A_BASE = {
    "karcher": "like the others",
    "linear": "like the others",
    "linear_one_weight_for_all": "like the others",
    "multi": "like the others",
    "multi_all_named": "like the others",
    "multislerp": "no base model",
}
REFUSED = {
    "anchors": "`passthrough` is for one or two models",
    "arcee_fusion": "`arcee_fusion` is for one or two models",
    "nearswap": "`nearswap` is for one or two models",
    "nuslerp": "`nuslerp` is for one or two models",
    "passthrough_scaled": "`passthrough` is for",
    "passthrough_scaled_in_part": "`passthrough` is for",
    "passthrough_slices": "`passthrough` is for",
    "pcb": "a `pcb` recipe already",
    "pcb_by_filter": "a `pcb` recipe already",
    "slerp_base_not_listed": "`slerp` is for",
    "slerp_gradient_and_filters": "`slerp` is for",
    "slices_with_their_own_base": "`slerp` is for",
    "task_arithmetic": "a weight of -0.2 takes a model away",
}
TIES = """\
# Our best so far.
models:
  - model: org/math  # the stronger one
    parameters:
      density: 0.5
      weight: 0.6
  - model: org/code
    parameters: {density: 0.3, weight: 0.3}
merge_method: ties
base_model: org/base
parameters:
  normalize: true
  lambda: 1.1
dtype: bfloat16  # as trained
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No model name of a recipe is a file or folder here.
    monkeypatch.chdir(tmp_path)


def converted(text: str, base: str | None = None) -> str:
    return convert_recipe(text, "recipe.yml", base).text


def error_of(text: str, base: str | None = None) -> str:
    with pytest.raises(PCBError) as caught:
        convert_recipe(text, "recipe.yml", base)
    message = caught.value.format_message()
    assert "\n" not in message
    return message


def uncommented(text: str) -> str:
    return re.sub(r"^ *# .*\n", "", text, flags=re.MULTILINE)


def test_ties() -> None:
    """Models, weights, comments and layout stay; the rest goes, and it is said why."""
    text = converted(TIES)
    assert uncommented(text) == (
        "models:\n"
        "  - model: org/math  # the stronger one\n"
        "    parameters:\n"
        "      weight: 0.6\n"
        "  - model: org/code\n"
        "    parameters: {weight: 0.3}\n"
        "merge_method: pcb\n"
        "base_model: org/base\n"
        "dtype: bfloat16  # as trained\n"
    )
    assert text.startswith("# Our best so far.\n")
    said = " ".join(re.findall(r"^# ?(.*)$", text, re.MULTILINE))
    for piece in (
        "Made of a recipe for `ties`",
        "weight: as before",
        f"density (0.5, 0.3): removed, for the default {DEFAULT_DENSITY}",
        "The differences do not carry over",
        "lambda (1.1): removed, for the default `auto`",
        "normalize (true): removed",
    ):
        assert piece in " ".join(said.split())
    assert all(len(line) <= 88 for line in text.splitlines())


def all_recipes() -> list[Any]:
    files = [*sorted(RIGHT.glob("*.yml")), *sorted(EXAMPLES.rglob("*.yml"))]
    return [pytest.param(file, id=file.stem) for file in files]


@pytest.mark.parametrize("file", all_recipes())
def test_every_recipe_becomes_one_without_mistakes(file: Path) -> None:
    """All but those of methods that PCB has no counterpart for; the rest is refused."""
    text = file.read_text()
    name = file.stem
    for weights in re.findall(r"\S+\.safetensors", text):
        Path(weights).parent.mkdir(parents=True, exist_ok=True)
        Path(weights).write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    methods = {document["merge_method"] for document in yaml.safe_load_all(text)}
    if name in REFUSED or methods == {"pcb"}:
        assert REFUSED.get(name, "a `pcb` recipe already") in error_of(text)
        return
    base = None
    if name in NEED_A_BASE:
        assert NEED_A_BASE[name] in error_of(text)
        base = "org/ancestor"
    got = convert_recipe(text, file.name, base)
    found = check_recipe(got.text, file.name)
    # Which tokens the merged model has is for whoever wrote the recipe to say.
    assert [str(f) for f in found if f.rule != "union-tokenizer"] == []
    assert got.findings == found
    for before, after in zip(
        yaml.safe_load_all(text), yaml.safe_load_all(got.text), strict=True
    ):
        assert_means_the_same(before, after, base)


def assert_means_the_same(before: Any, after: Any, base: str | None) -> None:
    """The same models and files; of the parameters at most weights are left."""
    if after["merge_method"] != "pcb":
        assert after == before
        return
    if before["merge_method"] == "pcb":
        assert after == before
        return
    changing = {"merge_method", "parameters", "base_model", "models"}
    changing |= {"slices", "modules"}
    rest = {key: value for key, value in before.items() if key not in changing}
    assert {k: v for k, v in after.items() if k not in changing} == rest
    assert after["base_model"] in (before.get("base_model"), base)
    old, new = (MergeConfiguration.model_validate(r) for r in (before, after))
    root = {new.base_model}
    models = [set(config.referenced_models()) - root for config in (old, new)]
    assert models[0] == models[1]
    assert parameters_of(after) <= {"weight"}


def parameters_of(place: Any) -> set[str]:
    if isinstance(place, list):
        return set().union(*map(parameters_of, place))
    if not isinstance(place, dict):
        return set()
    own = set(place.get("parameters") or ())
    return own.union(*map(parameters_of, place.values()))


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "dare_linear"])
def test_equal_weights_go(method: str) -> None:
    """Under lambda auto they change nothing, and `check` would say so."""
    text = re.sub("weight: 0.[36]", "weight: 0.5", TIES).replace("ties", method)
    got = converted(text)
    assert parameters_of(yaml.safe_load(got)) == set()
    assert "weight (0.5): removed, since it is the same for all models" in got


@pytest.mark.parametrize(
    "weight", ["0", "[0, 1]", "[{filter: mlp, value: 0}, {value: 1}]"]
)
def test_weights_of_0_stay(weight: str) -> None:
    """They are no common factor: where all are 0, the merge is the base."""
    text = re.sub("weight: 0.[36]", f"weight: {weight}", TIES)
    models = yaml.safe_load(convert_recipe(text, "ties.yml").text)["models"]
    expected = yaml.safe_load(weight)
    assert [model["parameters"] for model in models] == [{"weight": expected}] * 2


SLICES = """\
merge_method: linear
parameters: {weight: 1}
slices:
- sources:
  - {model: org/math, layer_range: [0, 4]}
  - {model: org/code, layer_range: [0, 4]}
- sources:
  - {model: org/math, layer_range: [4, 8]}
  - {model: org/code, layer_range: [4, 8]}
"""


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("", "org/base"),
        ("base_model: org/base\n", "org/base"),
        ("base_model: org/base\n", None),
    ],
)
def test_the_base_is_added_to_slices(written: str, given: str | None) -> None:
    """Mergekit adds it to `models` only; whether the recipe names it or --base."""
    text = convert_recipe(written + SLICES, "linear.yml", given).text
    assert "&" not in text  # YAML's sign for what is referred to
    assert "Written anew" not in text  # there were no comments to lose
    got = yaml.safe_load(text)
    for piece, layers in zip(got["slices"], ([0, 4], [4, 8]), strict=True):
        assert piece["sources"][-1] == {"model": "org/base", "layer_range": layers}
        assert len(piece["sources"]) == 3


def test_a_recipe_of_the_base_alone() -> None:
    """There are no weights to speak of."""
    text = "merge_method: ties\nbase_model: org/base\nmodels:\n- model: org/base\n"
    got = converted(text + "parameters: {density: 0.5, weight: 1}\n")
    assert yaml.safe_load(got)["merge_method"] == "pcb"


def test_slices_of_other_layers_say_what_to_add() -> None:
    """Which layers the base has there is not known; the fix passes."""
    other = "{model: org/code, layer_range: [2, 6]}"
    text = SLICES.replace("{model: org/code, layer_range: [4, 8]}", other)
    fix = "add `model: org/base` to its `sources:`, with its `layer_range` and `weight"
    with pytest.raises(PCBError, match=re.escape(fix)):
        convert_recipe(text, "linear.yml", "org/base")
    base = "{model: org/base, layer_range: [4, 8], parameters: {weight: 0}}"
    mended = text.replace(other, f"{other}\n  - {base}")
    second = yaml.safe_load(convert_recipe(mended, "l.yml", "org/base").text)["slices"]
    assert second[1]["sources"][-1] == {"model": "org/base", "layer_range": [4, 8]}


def test_weights_by_layer_and_filter_stay() -> None:
    """They are copied as they are."""
    weight = "[{filter: mlp, value: [0.5, 1]}, {value: 0}]"
    text = TIES.replace("weight: 0.3", f"weight: {weight}")
    got = converted(text)
    assert f"parameters: {{weight: {weight}}}" in got
    assert "weight 0 still competes" in " ".join(got.replace("#", "").split())


LINEAR = """\
models:
  - {model: org/math, parameters: {weight: 2}}
  - {model: org/code, parameters: {weight: 1}}
merge_method: linear
dtype: bfloat16
"""


def test_linear_needs_a_base() -> None:
    """One line says what is missing and how to give it."""
    assert error_of(LINEAR) == (
        "recipe.yml names no base model, which PCB needs: give the model that the "
        "others were fine-tuned from by --base MODEL"
    )
    got = converted(LINEAR, "org/base")
    assert "merge_method: pcb\nbase_model: org/base\n" in got
    assert "{model: org/math, parameters: {weight: 2}}" in got


def test_linear_with_a_base_of_its_own() -> None:
    """A base that is not among the models, where mergekit would stop, is the base."""
    got = yaml.safe_load(converted(LINEAR + "base_model: org/base\n"))
    assert got["base_model"] == "org/base"
    assert [entry["model"] for entry in got["models"]] == ["org/math", "org/code"]


def test_the_base_of_a_linear_merge_may_be_a_fine_tune() -> None:
    """It has to be said; then the tokenizer it gave stays."""
    text = LINEAR + "base_model: org/math\ntokenizer_source: base\n"
    assert "it may be one of the fine-tunes" in error_of(text)
    got = converted(text, "org/base")
    assert yaml.safe_load(got) | {"models": []} == {
        "models": [],
        "merge_method": "pcb",
        "base_model": "org/base",
        "tokenizer_source": "org/math",
        "dtype": "bfloat16",
    }
    assert "base_model: org/math before." in got
    # It is the base after all: its own weight has no meaning any more.
    models = yaml.safe_load(converted(text, "org/math"))["models"]
    assert models == [{"model": "org/math"}, {"model": "org/code"}]


@pytest.mark.parametrize("base", ["org/base", "org/other"])
def test_a_base_that_is_named(base: str) -> None:
    """The option is for recipes that need it."""
    assert error_of(TIES, base) == (
        "recipe.yml names its base model already: leave out --base"
    )


def test_a_wrong_recipe_is_refused_with_its_line() -> None:
    """As `check` says it, since dropping `densty` would hide the mistake."""
    text = TIES.replace("density: 0.5", "densty: 0.5")
    assert error_of(text) == (
        "recipe.yml:5:7: `ties` has no parameter `densty`; did you mean `density`?"
    )
    assert "needs a base model" in error_of(TIES.replace("base_model: org/base\n", ""))
    assert "the recipe is empty" in error_of("")
    assert error_of("a: 'b").startswith("recipe.yml:1:")


def test_negative_weights_are_refused() -> None:
    """Also in a filter of a gradient."""
    weight = "[{filter: mlp, value: [0.5, -1]}, {value: 0}]"
    text = TIES.replace("weight: 0.3", f"weight: {weight}")
    assert error_of(text) == (
        "recipe.yml: a weight of -1 takes a model away, and in PCB it would first win "
        "coordinates from the others: leave the model out, or stay with `ties`"
    )


def test_a_text_that_cannot_be_changed_is_written_anew() -> None:
    """An alias whose anchor goes: the values are right, the comments are gone."""
    text = (
        "models:\n"
        "  - model: org/math  # the stronger one\n"
        "    parameters: {density: &w 0.5, weight: 0.2}\n"
        "  - {model: org/code, parameters: {weight: *w}}\n"
        "merge_method: ties\n"
        "base_model: org/base\n"
    )
    got = converted(text)
    assert got.startswith("# Written anew, without the comments")
    first, second = yaml.safe_load(got)["models"]
    assert first["parameters"] == {"weight": 0.2}
    assert second["parameters"] == {"weight": 0.5}
    assert check_recipe(got, "recipe.yml") == []


def test_files_for_mergekit_pytorch(tmp_path: Path) -> None:
    """A recipe of weight files stays one."""
    for name in ("base", "math", "code"):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    text = re.sub(r"org/(\w+)", rf"{tmp_path}/\1.safetensors", TIES)
    got = convert_recipe(text, "recipe.yml")
    assert got.command == "mergekit-pytorch"
    assert got.findings == []


def test_a_converted_recipe_merges_as_pcb_without_parameters(tmp_path: Path) -> None:
    """Plain mergekit-yaml merges it, and equal weights leave the defaults."""
    base, tuned = save_family(tmp_path, 2)
    models = [
        {"model": str(model.path), "parameters": {"density": 0.6, "weight": 0.5}}
        for model in tuned
    ]
    ties = {
        "merge_method": "ties",
        "base_model": str(base.path),
        "models": models,
        "parameters": {"normalize": True, "int8_mask": True, "lambda": 0.9},
        "dtype": "float32",
    }
    file = tmp_path / "converted.yml"
    file.write_text(converted(yaml.safe_dump(ties)))
    result = invoke(run_yaml.main, file, tmp_path / "converted", *QUIET)
    assert result.exception is None, result.output
    plain = recipe_of(base, tuned, dtype="float32")
    expected, _ = merge(run_yaml.main, plain, tmp_path / "plain")
    assert_same(read(tmp_path / "converted"), read(expected))
