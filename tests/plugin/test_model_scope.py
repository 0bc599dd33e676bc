"""`scope: model` from recipes, through mergekit's own commands: what comes out."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from mergekit.merge_methods import merge_state_dicts
from mergekit.scripts import merge_raw_pytorch, multimerge, run_yaml
from safetensors.torch import save_file

from mergekit_pcb.kernel.domain import Options
from mergekit_pcb.kernel.formula import merge_task_vectors
from tests.kernel.test_official_outputs import (
    CASES,
    assert_same,
    each_case,
    expected,
    recipe,
    task_vectors,
)
from tests.oracle import assert_merge
from tests.tiny import (
    QUIET,
    error_line,
    fine_tune,
    invoke,
    llama_weights,
    merge,
    random_weights,
    read,
    recipe_of,
    save_family,
    save_llama,
    tensors_of,
    write_recipe,
)
from tests.tiny import assert_same as assert_same_model

MODEL = {"scope": "model", "lambda": 1.0}


assert_whole = functools.partial(assert_merge, scope="model", scale=1.0)


# --- the published algorithm ----------------------------------------------------------


@each_case
def test_recipes_equal_the_authors(index: int, tmp_path: Path) -> None:
    """What the authors' code makes of a model, mergekit-pytorch makes of its files."""
    taus, settings = task_vectors(index), recipe(index)
    weights = settings.pop("weight")
    zero = {f"t{k}": torch.zeros(tau.shape[1]) for k, tau in enumerate(taus)}
    models = [zero] + [
        {f"t{k}": tau[i].clone() for k, tau in enumerate(taus)}
        for i in range(CASES[index]["n"])
    ]
    files = [tmp_path / f"{i}.safetensors" for i in range(len(models))]
    for tensors, file in zip(models, files, strict=True):
        save_file(tensors, file)
    document = recipe_of(files[0], files[1:], parameters=MODEL | settings)
    for entry, weight in zip(document["models"], weights, strict=True):
        entry["parameters"] = {"weight": weight}
    out, _ = merge(merge_raw_pytorch.main, document, tmp_path / "merged")
    merged = read(out)
    for k, official in enumerate(expected(index, "model")):
        assert_same(merged[f"t{k}"], official)


def test_recipes_equal_the_plain_form(tmp_path: Path) -> None:
    """Tensors streamed in files are, bit by bit, their concatenation in memory."""
    base, tuned = save_family(tmp_path)
    settings = {"density": 0.2, "clamp": 0.05, "inter": "normalized"}
    out, _ = merge(
        run_yaml.main,
        recipe_of(base, tuned, parameters=MODEL | settings),
        tmp_path / "merged",
    )
    tau = torch.stack(
        [
            torch.cat([(m.tensors[k] - t).flatten() for k, t in base.tensors.items()])
            for m in tuned
        ]
    )
    merged = merge_task_vectors(
        tau,
        density=[0.2] * 3,
        weight=[1.0] * 3,
        options=Options("normalized", 0.05),
    )
    sizes = [tensor.numel() for tensor in base.tensors.values()]
    result = read(out)
    for (name, tensor), part in zip(
        base.tensors.items(), merged.split(sizes), strict=True
    ):
        assert torch.equal(result[name], tensor + part.view(tensor.shape)), name


@pytest.mark.parametrize("inter", ["raw", "normalized", "pairwise"])
def test_every_parameter_reaches_the_method(inter: str, tmp_path: Path) -> None:
    """Each model's weight and density, lambda, inter and clamp mean what they say."""
    base, tuned = save_family(tmp_path)
    density, weight = [0.05, 0.3, 1.0], [0.5, -1.0, 2.0]
    document = recipe_of(base, tuned)
    for entry, r, w in zip(document["models"], density, weight, strict=True):
        entry["parameters"] = {"density": r, "weight": w}
    document["parameters"] = MODEL | {"lambda": 1.5, "inter": inter, "clamp": 0.1}
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    assert_whole(
        read(out),
        base.tensors,
        tensors_of(tuned),
        density=lambda _, i: density[i],
        weight=lambda _, i: weight[i],
        scale=1.5,
        inter=inter,
        clamp=0.1,
    )


def test_gradients_and_filters(tmp_path: Path) -> None:
    """A tensor's own density picks its threshold from the ranking of the whole."""
    base, tuned = save_family(tmp_path, layers=3)
    document = recipe_of(base, tuned, parameters=dict(MODEL))
    first, second, third = document["models"]
    first["parameters"] = {"density": [0.1, 0.3, 0.5]}
    second["parameters"] = {
        "density": [{"filter": "mlp", "value": 0.4}, {"value": 0.05}],
        "weight": [{"filter": "embed", "value": 0.5}],
    }
    third["parameters"] = {"density": 0.2}
    document["parameters"]["lambda"] = [{"filter": "norm", "value": 2}, {"value": 1}]
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")

    def density(name: str, model: int) -> float:
        if model == 0:
            layer = int(name.split(".")[2]) if "layers" in name else 0
            return [0.1, 0.3, 0.5][layer]
        return (0.4 if "mlp" in name else 0.05) if model == 1 else 0.2

    assert_whole(
        read(out),
        base.tensors,
        tensors_of(tuned),
        density=density,
        weight=lambda name, i: 0.5 if i == 1 and "embed" in name else 1.0,
        scale=lambda name, _: 2.0 if "norm" in name else 1.0,
    )


@pytest.mark.parametrize(
    ("stored", "settings", "inside"),
    [
        (torch.bfloat16, {}, torch.bfloat16),
        (torch.float16, {}, torch.float16),
        (torch.float32, {"dtype": "bfloat16"}, torch.bfloat16),
        (torch.bfloat16, {"dtype": "float32"}, torch.float32),
        (torch.float32, {"dtype": "float64"}, torch.float64),
    ],
)
def test_every_dtype(
    stored: torch.dtype, settings: dict, inside: torch.dtype, tmp_path: Path
) -> None:
    """`dtype` rounds what is ranked as well as what is merged."""
    base, tuned = save_family(tmp_path, dtype=stored)
    document = recipe_of(base, tuned, parameters=MODEL, **settings)
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    assert_whole(read(out), base.tensors, tensors_of(tuned), dtype=inside)


def test_models_of_different_dtypes(tmp_path: Path) -> None:
    """Inputs of several dtypes are subtracted in the widest of them."""
    weights = llama_weights()
    base = save_llama(tmp_path / "base", weights, dtype=torch.bfloat16)
    tuned = [save_llama(tmp_path / f"{i}", fine_tune(weights, i)) for i in (0, 1)]
    document = recipe_of(base, tuned, parameters=MODEL)
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    assert_whole(read(out), base.tensors, tensors_of(tuned), dtype=torch.float32)


# --- the same from everywhere ---------------------------------------------------------


def test_all_ways_agree(tmp_path: Path) -> None:
    """mergekit-yaml, -multi, -pytorch and Python give the same bits."""
    base, tuned = save_family(tmp_path, dtype=torch.bfloat16)
    settings = {"density": 0.2, "lambda": 1.3, **MODEL}
    document = recipe_of(base, tuned, parameters=settings)
    by_yaml, _ = merge(run_yaml.main, document, tmp_path / "by-yaml")

    named = write_recipe({"name": "by-multi", **document}, tmp_path / "multi.yml")
    result = invoke(multimerge.main, named, "-I", tmp_path / "steps", *QUIET)
    assert result.exception is None, result.output

    files = [model.path / "model.safetensors" for model in (base, *tuned)]
    raw = recipe_of(files[0], files[1:], parameters=settings)
    by_pytorch, _ = merge(merge_raw_pytorch.main, raw, tmp_path / "by-pytorch")

    in_memory = merge_state_dicts(
        [base.tensors, *tensors_of(tuned)], "pcb", base=0, parameters=settings
    )
    assert {tensor.dtype for tensor in in_memory.values()} == {torch.bfloat16}
    assert_same_model(read(by_yaml), in_memory)
    assert_same_model(read(tmp_path / "steps" / "by-multi"), in_memory)
    assert_same_model(read(by_pytorch), in_memory)


def test_chained_merges(tmp_path: Path) -> None:
    """In mergekit-multi each merge has statistics of its own."""
    base, tuned = save_family(tmp_path)
    first = {"name": "first", **recipe_of(base, tuned[:2], parameters=MODEL)}
    final = recipe_of(base, ["first", tuned[2]], parameters=MODEL)
    texts = [
        write_recipe(r, tmp_path / f"{i}.yml").read_text()
        for i, r in enumerate((first, final))
    ]
    both = tmp_path / "chain.yml"
    both.write_text("---\n".join(texts))
    steps, out = tmp_path / "steps", tmp_path / "merged"
    result = invoke(multimerge.main, both, "-I", steps, "--out-path", out, *QUIET)
    assert result.exception is None, result.output
    between = read(steps / "first")
    assert_whole(between, base.tensors, tensors_of(tuned[:2]))
    assert_whole(read(out), base.tensors, [between, tuned[2].tensors])


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("option", ["--lazy-unpickle", "--multi-gpu"])
def test_options_change_nothing(suffix: str, option: str, tmp_path: Path) -> None:
    """Options of mergekit-pytorch, those it ignores too, leave the merge the same.

    mergekit 0.1.5 alone cannot read a .bin file lazily on Python 3.13.
    """
    weights = random_weights({"a.weight": (40, 16), "b.bias": (5,)})
    models = [weights, fine_tune(weights, 0), fine_tune(weights, 1)]
    files = [tmp_path / f"{i}.{suffix}" for i in range(3)]
    for tensors, file in zip(models, files, strict=True):
        (torch.save if suffix == "bin" else save_file)(tensors, file)
    document = recipe_of(files[0], files[1:], parameters=MODEL)
    out, _ = merge(merge_raw_pytorch.main, document, tmp_path / "merged", option)
    assert_whole(read(out), models[0], models[1:])


# --- what stops the merge -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"), [("inter", ["raw", "pairwise"]), ("clamp", [0.01, 0.2])]
)
def test_settings_that_must_be_the_same(
    name: str, values: list, tmp_path: Path
) -> None:
    """Different `inter` or `clamp` in one domain is an error before any tensor."""
    base, tuned = save_family(tmp_path / "models", 2)
    varied = [{"filter": "mlp", "value": values[1]}, {"value": values[0]}]
    document = recipe_of(base, tuned, parameters=MODEL | {name: varied})
    file = write_recipe(document, tmp_path / "recipe.yml")
    line = error_line(invoke(run_yaml.main, file, tmp_path / "merged", *QUIET))
    assert line.startswith(f"{name} must be the same for all tensors")
    assert all(str(value) in line for value in values)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("value", [np.nan, -np.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("which", [0, 2], ids=["base", "fine-tune"])
def test_damaged_checkpoint(which: int, value: float, tmp_path: Path) -> None:
    """NaN or infinity names model and tensor, before anything is written."""
    weights = llama_weights()
    models = [weights, fine_tune(weights, 0), fine_tune(weights, 1)]
    name = "model.layers.1.mlp.down_proj.weight"
    models[which][name][3, 5] = value
    base, *tuned = (
        save_llama(tmp_path / "models" / f"{i}", tensors)
        for i, tensors in enumerate(models)
    )
    file = write_recipe(
        recipe_of(base, tuned, parameters=MODEL), tmp_path / "recipe.yml"
    )
    line = error_line(invoke(run_yaml.main, file, tmp_path / "merged", *QUIET))
    culprit = [base, *tuned][which]
    assert line.startswith(f"{culprit.path} holds NaN or infinity in {name}")
    assert not (tmp_path / "merged").exists()
