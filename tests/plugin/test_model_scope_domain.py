"""Which tensors and models are ranked together under `scope: model`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from mergekit.scripts import merge_raw_pytorch, run_yaml
from mergekit.tokenizer import BuildTokenizer
from safetensors.torch import save_file

from mergekit_pcb.plugin import small_tensors
from tests.oracle import assert_merge
from tests.tiny import (
    VOCAB,
    Tensors,
    fine_tune,
    in_slices,
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
)
from tests.tiny import assert_same as assert_same_model

MODEL = {"scope": "model", "lambda": 1.0}


assert_whole = functools.partial(assert_merge, scope="model", scale=1.0)


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


def test_a_tokenizer_is_built_once_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as long as many tensors, and each tensor of tokens needs it."""
    base, tuned = save_family(tmp_path, 2)
    for model in (base, *tuned):
        save_tokenizer(model.path, [])
    built = []
    original = BuildTokenizer.execute
    monkeypatch.setattr(
        BuildTokenizer, "execute", lambda self: built.append(1) or original(self)
    )
    monkeypatch.setattr(small_tensors, "_MOST", 0)
    document = recipe_of(
        base, tuned, parameters=MODEL, tokenizer={"source": "union"}, dtype="float32"
    )
    merge(run_yaml.main, document, tmp_path / "merged")
    assert len(built) == 4, "three passes and the merge"


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
    document = recipe_of(base, tuned, parameters={"scope": scope})
    document["parameters"]["lambda"] = [{"filter": "mlp", "value": 1}]
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
