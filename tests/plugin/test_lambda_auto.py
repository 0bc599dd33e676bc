"""`lambda: auto` in merges: what it becomes, where it is told, what may be mixed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from mergekit.merge_methods import merge_state_dicts
from mergekit.scripts import merge_raw_pytorch, run_yaml

from mergekit_pcb.plugin import lambda_record, statistics_file
from mergekit_pcb.plugin.lambda_record import LambdaSummary
from tests.oracle import assert_merge
from tests.plugin.statistics_recipes import recipe, save
from tests.tiny import (
    Model,
    Tensors,
    assert_same,
    invoke,
    merge,
    read,
    recipe_of,
    save_family,
    save_llama,
    tensors_of,
    write_recipe,
)

Family = tuple[Model, list[Model]]


@pytest.fixture
def family(tmp_path: Path) -> Family:
    return save_family(tmp_path / "models")


def summary_of(document: dict, out: Path) -> tuple[Tensors, LambdaSummary]:
    """Merge, and return the merged weights and what was told."""
    told: list[LambdaSummary] = []
    token = lambda_record.tell.set(told.append)
    try:
        merge(run_yaml.main, document, out)
    finally:
        lambda_record.tell.reset(token)
    (summary,) = told
    return read(out), summary


def test_each_tensor_has_its_own(family: Family, tmp_path: Path) -> None:
    """Under scope: tensor; the oracle knows each of them from all coordinates."""
    merged, summary = summary_of(recipe_of(*family), tmp_path / "merged")
    assert_merge(merged, family[0].tensors, tensors_of(family[1]))
    assert summary.tensors == len(merged)
    assert summary.least < summary.middle < summary.largest


def test_the_whole_model_has_one(family: Family, tmp_path: Path) -> None:
    """Under scope: model; as a number it gives the same bits, from everywhere."""
    settings = {"scope": "model"}
    document = recipe_of(*family, parameters=settings)
    merged, summary = summary_of(document, tmp_path / "merged")
    assert summary.least == summary.largest
    number = recipe_of(*family, parameters={**settings, "lambda": summary.middle})
    out, _ = merge(run_yaml.main, number, tmp_path / "number")
    assert_same(read(out), merged)
    base, tuned = family
    files = [model.path / "model.safetensors" for model in (base, *tuned)]
    raw = recipe_of(files[0], files[1:], parameters=settings)
    by_pytorch, _ = merge(merge_raw_pytorch.main, raw, tmp_path / "by-pytorch")
    assert_same(read(by_pytorch), merged)
    in_memory = merge_state_dicts(
        [base.tensors, *tensors_of(tuned)], "pcb", base=0, parameters=settings
    )
    assert_same(dict(in_memory), merged)


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_equal_weights_change_nothing(
    scope: str, family: Family, tmp_path: Path
) -> None:
    """Weights of a half are weights of one, but for the digits of lambda."""
    ones = recipe_of(*family, parameters={"scope": scope})
    halves = recipe_of(*family, parameters={"scope": scope, "weight": 0.5})
    first, _ = merge(run_yaml.main, ones, tmp_path / "ones")
    second, _ = merge(run_yaml.main, halves, tmp_path / "halves")
    for name, tensor in read(first).items():
        torch.testing.assert_close(read(second)[name], tensor, rtol=1e-3, atol=1e-4)


def test_numbers_and_auto_are_mixed(family: Family, tmp_path: Path) -> None:
    """A filter gives some tensors a number, or a gradient, and auto to others."""
    document = recipe_of(*family)
    document["parameters"] = {
        "lambda": [
            {"filter": "mlp", "value": [0.5, 1.5]},
            {"filter": "norm", "value": 2},
            {"value": "auto"},
        ]
    }
    merged, summary = summary_of(document, tmp_path / "merged")
    numbers = {name for name in merged if "mlp" in name or "norm" in name}
    assert summary.tensors == len(merged) - len(numbers)

    def scale(name: str, _: int) -> float:
        if "mlp" in name:
            return 1.5 if "layers.1." in name else 0.5
        return 2.0

    for chosen, wanted in ((numbers, scale), (merged.keys() - numbers, None)):
        assert_merge(
            {name: merged[name] for name in chosen},
            {name: family[0].tensors[name] for name in chosen},
            [{name: t[name] for name in chosen} for t in tensors_of(family[1])],
            scale=wanted,
        )


def test_the_merge_tells(family: Family, tmp_path: Path) -> None:
    """One line on standard error, and none with --quiet or with numbers."""
    file = write_recipe(recipe_of(*family), tmp_path / "auto.yml")
    copy = "--no-copy-tokenizer"
    result = invoke(run_yaml.main, file, tmp_path / "merged", copy)
    pattern = r"PCB: auto chose lambda [\d.]+, the median of 21 tensors \(.* to .*\)\n"
    assert len(re.findall(pattern, result.stderr)) == 1
    result = invoke(run_yaml.main, file, tmp_path / "quiet", copy, "--quiet")
    assert "lambda" not in result.stderr
    number = recipe_of(*family, parameters={"lambda": 1})
    file = write_recipe(number, tmp_path / "number.yml")
    result = invoke(run_yaml.main, file, tmp_path / "number", copy)
    assert "lambda" not in result.stderr


def test_statistics_files_carry_it(family: Family, tmp_path: Path) -> None:
    """A merge with a file has the same bits as without; the first may have a number."""
    file = tmp_path / "statistics.json"
    save(family, file)  # lambda 1
    automatic = recipe(family, **{"lambda": "auto"})
    plain, _ = merge(run_yaml.main, automatic, tmp_path / "plain")
    statistics_file._cache.clear()
    with_file = recipe(family, statistics=str(file), **{"lambda": "auto"})
    merged, _ = merge(run_yaml.main, with_file, tmp_path / "with-file")
    assert_same(read(merged), read(plain))
    content = json.loads(file.read_text())
    content["projections"] = []
    file.write_text(json.dumps(content))
    result = invoke(
        run_yaml.main, write_recipe(with_file, tmp_path / "r.yml"), tmp_path / "no"
    )
    assert "one tensor with the densities 0.2, 0.2, 0.2" in result.output


def test_a_model_that_spends_all_in_one_place_is_named(tmp_path: Path) -> None:
    """Under scope: model, where one kind of tensor moved much further than others."""
    base, tuned = save_family(tmp_path / "models", 2)
    loud = dict(tuned[1].tensors)
    name = "model.embed_tokens.weight"
    loud[name] = base.tensors[name] + 100 * (loud[name] - base.tensors[name])
    models = [tuned[0], save_llama(tmp_path / "models" / "loud", loud)]
    settings = {"scope": "model", "density": 0.05}
    document = recipe_of(base, models, parameters=settings)
    file = write_recipe(document, tmp_path / "recipe.yml")
    result = invoke(run_yaml.main, file, tmp_path / "merged", "--no-copy-tokenizer")
    (line,) = [x for x in result.stderr.splitlines() if "under scope: model" in x]
    assert "loud keeps 100% of its coordinates in tensors of one kind (embedding)" in (
        line
    )
