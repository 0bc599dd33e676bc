"""`scope: model` from recipes, through mergekit's own commands: what comes out."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mergekit.merge_methods import merge_state_dicts
from mergekit.scripts import merge_raw_pytorch, multimerge, run_yaml
from safetensors.torch import save_file

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
    VOCAB,
    Tensors,
    fine_tune,
    in_slices,
    invoke,
    llama_weights,
    merge,
    random_weights,
    read,
    recipe_of,
    same,
    save_classifiers,
    save_family,
    save_llama,
    save_tokenizer,
    tensors_of,
    write_recipe,
)
from tests.tiny import assert_same as assert_same_model

MODEL = {"scope": "model"}


assert_whole = functools.partial(assert_merge, scope="model")


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
        inter="normalized",
        clamp=0.05,
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
def test_options_change_nothing(
    suffix: str, option: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Options of mergekit-pytorch, those it ignores too, leave the merge the same."""
    if (suffix, option) == ("bin", "--lazy-unpickle") and sys.version_info >= (3, 13):
        reason = "mergekit 0.1.5 cannot do that with any method on Python 3.13"
        request.applymarker(pytest.mark.xfail(reason=reason))
    weights = random_weights({"a.weight": (40, 16), "b.bias": (5,)})
    models = [weights, fine_tune(weights, 0), fine_tune(weights, 1)]
    files = [tmp_path / f"{i}.{suffix}" for i in range(3)]
    for tensors, file in zip(models, files, strict=True):
        (torch.save if suffix == "bin" else save_file)(tensors, file)
    document = recipe_of(files[0], files[1:], parameters=MODEL)
    out, _ = merge(merge_raw_pytorch.main, document, tmp_path / "merged", option)
    assert_whole(read(out), models[0], models[1:])


# --- which tensors count --------------------------------------------------------------


def test_buffers_do_not_count(tmp_path: Path) -> None:
    """A buffer that is not floating point is copied and is not part of the domain."""
    weights = random_weights({"a.weight": (40, 16), "b.bias": (5,), "c.scale": ()})
    # Without rounding to floating point they would rank above all else.
    buffer = {"ids": torch.arange(512)[None]}
    models = [weights, fine_tune(weights, 0), fine_tune(weights, 1)]
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for tensors, file in zip(models, files, strict=True):
        save_file(tensors | buffer, file)
    document = recipe_of(files[0], files[1:], parameters=MODEL)
    out, _ = merge(merge_raw_pytorch.main, document, tmp_path / "merged")
    merged = read(out)
    assert torch.equal(merged.pop("ids"), buffer["ids"])
    assert_whole(merged, models[0], models[1:])


def test_tensors_without_elements(tmp_path: Path) -> None:
    """A tensor without elements is copied."""
    weights = random_weights({"a.weight": (40, 16)}) | {"empty": torch.zeros(0, 4)}
    models = [weights, fine_tune(weights, 0), fine_tune(weights, 1)]
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for tensors, file in zip(models, files, strict=True):
        save_file(tensors, file)
    document = recipe_of(files[0], files[1:], parameters=MODEL)
    out, _ = merge(merge_raw_pytorch.main, document, tmp_path / "merged")
    assert_whole(read(out), models[0], models[1:])


def test_optional_tensor_missing_from_one_model(tmp_path: Path) -> None:
    """A model that lacks an optional tensor has left it untouched."""
    base, *tuned = save_classifiers(tmp_path, [True, True, False, True])
    # Above a half, untouched coordinates take part: the missing one must as well.
    document = recipe_of(base, tuned, parameters=MODEL | {"density": 0.7})
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    merged = read(out)
    assert not same(merged["score.bias"], base.tensors["score.bias"])
    assert_whole(merged, base.tensors, tensors_of(tuned), density=0.7)


def test_optional_tensor_of_the_base_alone(tmp_path: Path) -> None:
    """A tensor that no fine-tune has is kept and does not count."""
    base, *tuned = save_classifiers(tmp_path, [True, False, False])
    document = recipe_of(base, tuned, parameters=MODEL)
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    merged, weights = read(out), dict(base.tensors)
    assert same(merged.pop("score.bias"), weights.pop("score.bias"))
    assert_whole(merged, weights, tensors_of(tuned))


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    """Tied weights are one tensor of the output, so one tensor of the domain."""
    base, tuned = save_family(tmp_path, head=False)
    document = recipe_of(base, tuned, parameters=MODEL)
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    assert_whole(read(out), base.tensors, tensors_of(tuned))


def test_one_model_is_untied(tmp_path: Path) -> None:
    """Where one model has an output layer of its own, it is a tensor like others."""
    weights = llama_weights()
    tied = {name: w for name, w in weights.items() if name != "lm_head.weight"}
    base = save_llama(tmp_path / "base", tied)
    tuned = [
        save_llama(tmp_path / "tied", fine_tune(tied, 0)),
        save_llama(tmp_path / "untied", fine_tune(weights, 1)),
    ]
    document = recipe_of(base, tuned, parameters=MODEL)
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    full = [
        {"lm_head.weight": model.tensors["model.embed_tokens.weight"], **model.tensors}
        for model in (base, *tuned)
    ]
    assert_whole(read(out), full[0], full[1:])


def test_embeddings_count_as_the_tokenizer_aligns_them(tmp_path: Path) -> None:
    """Of models with different tokens, the aligned embeddings are ranked."""
    base, tuned = save_family(tmp_path, 2)
    weights = fine_tune(llama_weights(vocab=VOCAB + 1), 9)
    tuned.append(save_llama(tmp_path / "wide", weights))
    for model in (base, *tuned):
        save_tokenizer(model.path, ["added"] if model is tuned[-1] else [])
    document = recipe_of(
        base, tuned, parameters=MODEL, tokenizer={"source": "union"}, dtype="float32"
    )
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    aligned = [dict(model.tensors) for model in (base, *tuned)]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        for tensors in aligned:
            tensors[name] = torch.cat([tensors[name][:VOCAB], weights[name][VOCAB:]])
    assert_whole(read(out), aligned[0], aligned[1:])


def test_a_layer_that_is_used_twice_counts_twice(tmp_path: Path) -> None:
    """Slices that overlap: each tensor of the output is one tensor of the domain."""
    base, tuned = save_family(tmp_path, layers=3)
    density = [[0.1, 0.4, 0.2], [0.3, 0.1, 0.5]]
    document = in_slices(base, tuned, [[0, 2], [1, 3]], density)
    document["parameters"] = MODEL
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")

    def stacked(tensors: Tensors) -> Tensors:
        result = {k: t for k, t in tensors.items() if "layers" not in k}
        for here, there in enumerate([0, 1, 1, 2]):
            prefix = f"model.layers.{there}."
            result |= {
                f"model.layers.{here}.{name.removeprefix(prefix)}": tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
        return result

    def of_slice(name: str, model: int) -> float:
        first = any(part in name for part in ("layers.0.", "layers.1.", "embed"))
        return density[0 if first else 1][model]

    assert_whole(
        read(out),
        stacked(base.tensors),
        [stacked(model.tensors) for model in tuned],
        density=of_slice,
    )


@pytest.mark.parametrize(
    ("without", "lacking"),
    [
        # mergekit itself merges no more models behind the layers than before them.
        (0, ("layers.0.", "embed", "model.norm", "lm_head")),
        (1, ("layers.1.", "model.norm", "lm_head")),
    ],
)
def test_a_model_in_one_slice_only(
    without: int, lacking: tuple[str, ...], tmp_path: Path
) -> None:
    """A model that a slice leaves out has left that slice's tensors untouched."""
    base, tuned = save_family(tmp_path, 2)
    document = recipe_of(base, tuned, parameters=MODEL | {"density": 0.3})
    del document["models"]
    document["slices"] = [
        {
            "sources": [
                {"model": model, "layer_range": [layer, layer + 1]}
                for model in (base, *tuned)
                if model is not tuned[1] or layer != without
            ]
        }
        for layer in (0, 1)
    ]
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    models = tensors_of(tuned)
    models[1] = {
        name: tensor
        for name, tensor in models[1].items()
        if not any(part in name for part in lacking)
    }
    assert_whole(read(out), base.tensors, models, density=0.3)


def split(tensors: Tensors, part: str, *, inside: bool) -> Tensors:
    return {name: t for name, t in tensors.items() if (part in name) == inside}


def test_some_tensors_by_themselves(tmp_path: Path) -> None:
    """A filter may leave tensors out of the domain; those are merged one by one."""
    base, tuned = save_family(tmp_path)
    scope = [{"filter": "mlp", "value": "model"}, {"value": "tensor"}]
    document = recipe_of(base, tuned, parameters={"scope": scope, "density": 0.2})
    # For tensors outside the domain nothing need be the same.
    document["parameters"]["clamp"] = [
        {"filter": "mlp", "value": 0.1},
        {"filter": "self_attn", "value": 0},
        {"value": 0.01},
    ]
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    check: Sequence[tuple[str, bool, Callable, float]] = (
        ("mlp", True, assert_whole, 0.1),
        ("self_attn", True, assert_merge, 0),
    )
    for part, inside, compare, clamp in check:
        compare(
            split(read(out), part, inside=inside),
            split(base.tensors, part, inside=inside),
            [split(model.tensors, part, inside=inside) for model in tuned],
            density=0.2,
            clamp=clamp,
        )


def test_all_fine_tunes_are_the_base(tmp_path: Path) -> None:
    """Models that changed nothing merge into the base."""
    base, _ = save_family(tmp_path, 0)
    tuned = [save_llama(tmp_path / f"{i}", base.tensors) for i in range(2)]
    document = recipe_of(base, tuned, parameters=MODEL)
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    assert_same_model(read(out), base.tensors)


def test_only_the_base(tmp_path: Path) -> None:
    """A recipe without fine-tunes gives the base."""
    base, _ = save_family(tmp_path, 0)
    document = recipe_of(base, [base], parameters=MODEL)
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    assert_same_model(read(out), base.tensors)


def test_one_fine_tune(tmp_path: Path) -> None:
    """A single model competes with nobody but itself."""
    base, tuned = save_family(tmp_path, 1)
    document = recipe_of(base, tuned, parameters=MODEL | {"density": 0.25})
    out, _ = merge(run_yaml.main, document, tmp_path / "merged")
    merged = read(out)
    assert_whole(merged, base.tensors, tensors_of(tuned), density=0.25)
    changed = sum((merged[k] != t).sum().item() for k, t in base.tensors.items())
    total = sum(tensor.numel() for tensor in base.tensors.values())
    assert changed == pytest.approx(0.25 * total, abs=2)


# --- what stops the merge -------------------------------------------------------------


def the_line(result: Any) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback, not a line"
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("Error: ")]
    return line.removeprefix("Error: ")


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
    line = the_line(invoke(run_yaml.main, file, tmp_path / "merged", *QUIET))
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
    line = the_line(invoke(run_yaml.main, file, tmp_path / "merged", *QUIET))
    culprit = [base, *tuned][which]
    assert line.startswith(f"{culprit.path} holds NaN or infinity in {name}")
    assert not (tmp_path / "merged").exists()
