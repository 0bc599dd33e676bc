"""Measures of the weights alone, on models small enough to work them out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from mergekit_pcb.compare.evaluation import ALL
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.weight_metrics import WeightMetrics
from mergekit_pcb.recipes.models import located
from tests import tiny


def inputs_at(folder: Path, **more: Any) -> Inputs:
    experts = {name: located(str(folder / name)) for name in "ab"}
    return Inputs(located(str(folder / "base")), experts, **more)


def ignore(percent: float) -> None:
    pass


def test_measures_without_data_by_hand(tmp_path: Path) -> None:
    """Half the sum of two task vectors is as long as their mean and known cosines."""
    shape = (tiny.VOCAB, tiny.HIDDEN)
    zero, one, two = tiny.torch.zeros((3, *shape))
    one[0, 0], two[0, 1] = 3.0, 4.0
    tensors = {"base": zero, "a": one, "b": two, "half": (one + two) / 2}
    for name, tensor in tensors.items():
        weights = {"model.embed_tokens.weight": tensor, "lm_head.weight": zero.clone()}
        tiny.save_llama(tmp_path / name, weights)
    # An extended vocabulary has no counterpart in the base and is passed over.
    extended = {
        "model.embed_tokens.weight": (one + two) / 2,
        "lm_head.weight": tiny.torch.ones(tiny.VOCAB + 1, tiny.HIDDEN),
    }
    tiny.save_llama(tmp_path / "extended", extended)
    measures = WeightMetrics(inputs_at(tmp_path))
    for name in ("half", "extended"):
        scores = measures(tmp_path / name, ALL, ignore)
        assert {name: score.value for name, score in scores.items()} == pytest.approx(
            {"merged / mean": 1.0, "cos a": 0.6, "cos b": 0.8}
        )


def test_merges_and_experts_are_measured_on_the_same_tensors(tmp_path: Path) -> None:
    """Neither by what is in no merge, nor by an embedding of other tokens."""
    base, a, b = (
        tiny.save_llama(tmp_path / name, tiny.fine_tune(tiny.llama_weights(), seed))
        for seed, name in enumerate(("base", "a", "b"))
    )
    measures = WeightMetrics(inputs_at(tmp_path, own_vocabulary=True))
    expected = measures(a.path, ALL, ignore)
    tiny.in_two_shards(base, missing="model.never_merged.weight")
    for model in (a, b):
        more = {**model.tensors, "model.mtp.weight": tiny.torch.ones(9)}
        more["lm_head.weight"] = -model.tensors["lm_head.weight"]
        save_file(more, model.path / "model.safetensors")
    assert measures(a.path, ALL, ignore) == expected
    assert measures(b.path, ALL, ignore).keys() == expected.keys()


def test_experts_that_are_the_base_have_no_measures(tmp_path: Path) -> None:
    """A task vector of zeros has no direction, and divides nothing."""
    for name in ("base", "a", "b"):
        tiny.save_llama(tmp_path / name, tiny.llama_weights())
    assert WeightMetrics(inputs_at(tmp_path))(tmp_path / "a", ALL, ignore) == {}


def test_measures_are_of_the_experts_as_they_are(tmp_path: Path) -> None:
    """Another model in a folder of the same name is another, and an adapter's dtype."""
    for seed, name in enumerate(("base", "a", "b")):
        tiny.save_llama(tmp_path / name, tiny.fine_tune(tiny.llama_weights(), seed))
    measures = WeightMetrics(inputs_at(tmp_path))
    before = measures.identity(ALL)
    assert measures.identity(ALL) == before
    (tmp_path / "a").rename(tmp_path / "before")
    tiny.save_llama(tmp_path / "a", tiny.fine_tune(tiny.llama_weights(), 9))
    assert measures.identity(ALL) != before
    adapted = located(f"{tmp_path}/base+{tmp_path}/a")
    plain, half = (
        inputs_at(tmp_path, adapter_dtype=dtype) for dtype in (None, "bfloat16")
    )
    assert plain.identity_of(adapted) != half.identity_of(adapted)
    assert plain.identity_of(plain.base) == half.identity_of(plain.base)
