"""`compare --recipe`: a recipe of the user's as a row of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mergekit_pcb.compare.command import compare
from mergekit_pcb.compare.contenders import contenders
from mergekit_pcb.compare.function import Function
from mergekit_pcb.compare.inputs import inputs_of
from mergekit_pcb.compare.recipe import compare_recipe
from mergekit_pcb.errors import PCBError
from tests import tiny

BASE, EXPERTS = "org/base", ["org/a", "org/b"]


def write(file: Path, recipe: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return tiny.write_recipe(recipe, file)


def found(
    *files: Path, base: str = BASE, experts: list[str] = EXPERTS, taken: Any = ()
) -> Any:
    inputs = inputs_of(tiny.recipe_of(base, experts))
    return contenders(files, "recipe.yml", inputs, taken)


def test_a_row_says_method_and_settings(tmp_path: Path) -> None:
    """The recipe stays as it is; its label names what the name of the file does not."""
    more = {"parameters": {"density": 0.4, "scope": "model", "lambda": 1.2}}
    recipe = tiny.recipe_of(BASE, EXPERTS, **more)
    file = write(tmp_path / "best.yml", recipe)
    (contender,) = found(file)
    assert contender.name == "best"
    assert contender.method == "pcb"
    assert contender.recipe == recipe
    assert contender.label == "pcb:model, density 0.4, weight 1, lambda 1.2"
    assert contender.given == str(file)


def test_a_recipe_without_base_or_in_slices_is_taken(tmp_path: Path) -> None:
    """An average of the same models is one of them, and so are their slices."""
    entries = [{"model": m, "parameters": {"weight": 0.5}} for m in EXPERTS]
    linear = {"merge_method": "linear", "models": entries}
    slices = tiny.in_slices(BASE, EXPERTS, [(0, 2)], [(0.1, 0.1)])
    files = write(tmp_path / "a.yml", linear), write(tmp_path / "b.yml", slices)
    labels = [contender.label for contender in found(*files)]
    assert labels[0].startswith("linear, weight 0.5")
    assert labels[1].startswith("pcb, density 0.1")


def test_files_of_one_name_have_rows_of_their_own(tmp_path: Path) -> None:
    """The folder tells them apart; a file that is named like a method likewise."""
    recipe = tiny.recipe_of(BASE, EXPERTS)
    names = ("one/best.yml", "two/best.yml", "ties.yml", "other.yml")
    files = [write(tmp_path / "x" / name, recipe) for name in names]
    rows = found(*files, taken=["ties", "pcb"])
    assert [c.name for c in rows] == ["one/best", "two/best", "x/ties", "other"]
    with pytest.raises(PCBError, match="would have one row, one/best"):
        found(files[0], files[0])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (tiny.recipe_of("org/other", EXPERTS), "has the base org/other, and recipe"),
        (tiny.recipe_of(BASE, ["org/a"]), "lacks org/b, unlike recipe.yml"),
        (tiny.recipe_of(BASE, ["org/a", "org/c"]), "merges org/c and lacks org/b"),
        ("no recipe", "a recipe is `key: value` lines"),
        ({"merge_method": "pcb"}, "nothing to merge"),
    ],
)
def test_other_models_are_one_line(tmp_path: Path, recipe: Any, message: str) -> None:
    """Which file it is, and what differs."""
    file = write(tmp_path / "best.yml", recipe)
    with pytest.raises(PCBError, match=message) as error:
        found(file)
    assert str(file) in error.value.message


def test_nothing_begins_with_a_wrong_contender(tmp_path: Path) -> None:
    """On the command line it is one line, before any folder is made."""
    base, tuned = tiny.save_family(tmp_path, 2)
    recipe = write(tmp_path / "r.yml", tiny.recipe_of(base, tuned))
    best = write(tmp_path / "best.yml", tiny.recipe_of(base, tuned[:1]))
    out = tmp_path / "out"
    result = tiny.invoke(compare, recipe, "--out", out, "--recipe", best)
    assert f"{best} lacks {tuned[1].path}" in tiny.error_line(result)
    assert not out.exists()


SCORES = """
from safetensors.torch import load_file

def score(model_dir, split="test"):
    tensors = load_file(f"{model_dir}/model.safetensors")
    return {"accuracy": [float(x) for x in tensors["lm_head.weight"][:9, 0]]}
"""


def test_a_contender_stands_beside_the_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is merged by its own recipe, evaluated like the others, and told of."""
    (tmp_path / "contender_scores.py").write_text(SCORES)
    monkeypatch.chdir(tmp_path)
    base, tuned = tiny.save_family(tmp_path, 2)
    recipe = write(tmp_path / "r.yml", tiny.recipe_of(base, tuned))
    more = {"parameters": {"lambda": 0.5}}
    best = write(
        tmp_path / "found" / "best.yml",
        tiny.recipe_of(base, tuned, **more) | {"merge_method": "task_arithmetic"},
    )
    for entry in (document := yaml.safe_load(best.read_text()))["models"]:
        entry["parameters"] = {"weight": 1.0}
    write(best, document)
    out = tmp_path / "out"
    compare_recipe(
        str(recipe),
        out,
        lambda _: Function("contender_scores:score"),
        methods=["pcb"],
        swept={"pcb": {"lambda": [0.5, 1.5]}},
        recipes=[best],
        merge_options={"copy_tokenizer": False, "quiet": True},
        quiet=True,
        in_this_process=True,
    )
    written = json.loads((out / "comparison.json").read_text())
    row = next(row for row in written["rows"] if row["name"] == "best")
    assert row["method"] == "task_arithmetic"
    assert row["label"] == "task_arithmetic, weight 1, lambda 0.5"
    assert yaml.safe_load((out / row["recipe"]).read_text()) == document
    head = "lm_head.weight"
    task_vectors = sum(m.tensors[head] - base.tensors[head] for m in tuned)
    merged = base.tensors[head] + 0.5 * task_vectors
    expected = merged[:9, 0].mean().item()
    assert row["scores"]["accuracy"]["value"] == pytest.approx(expected, rel=1e-5)
    assert row["scores"]["accuracy"]["error"] > 0
    assert any(f"given with --recipe: best ({best})" in n for n in written["notes"])
    assert not any("Nothing to sweep" in note for note in written["notes"])
