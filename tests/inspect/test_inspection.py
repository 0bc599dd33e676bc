"""Metrics summed by kind of tensor and by layer."""

from __future__ import annotations

import dataclasses

from mergekit_pcb.inspect.inspection import Inspection, Setting


def test_roll_ups(found: Inspection) -> None:
    """Kinds and layers are each the whole model; every tensor is in one of each."""
    assert list(found.kinds()) == ["embedding", "attention", "MLP", "norm", "head"]
    assert list(found.layers()) == ["0", "1", "outside"]
    for parts in (found.kinds(), found.layers()):
        assert sum(metrics.weights for metrics in parts.values()) == found.whole.weights
    assert len(found.by_layer()["0"]) == 9
    assert found.kinds()["MLP"].weights == 2 * 3 * 16 * 32


def test_layers_are_in_order_whatever_the_plan_is(found: Inspection) -> None:
    """The order of the tensors decides about stacks only."""
    turned = dataclasses.replace(found, tensors=found.tensors[::-1])
    assert list(turned.by_layer()) == list(found.by_layer())
    names = {tensor.name for tensor in found.by_layer()["outside"]}
    assert names == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


def test_models_are_called_as_elsewhere(found: Inspection) -> None:
    """As in `compare`: the last part of a path, and more where that is not enough."""
    models = ("/data/a/final", "/data/b/final", "org/chat")
    inspection = dataclasses.replace(found, models=models)
    assert inspection.short_models() == ["a/final", "b/final", "chat"]


def test_origin_of_settings(found: Inspection) -> None:
    """The first is the recipe's own, or pcb's defaults."""
    assert (found.origin(0), found.origin(1)) == ("recipe", "command line")
    assert dataclasses.replace(found, method="ties").origin(0) == "defaults"


def test_names_of_settings() -> None:
    """Ranges where a parameter differs; `auto` alone goes without saying."""
    tensors = [
        {"scope": "tensor", "density": {"a": 0.1, "b": 0.3}, "lambda": 1.0},
        {"scope": "model", "density": {"a": 0.2}, "lambda": 1.5},
    ]
    both = Setting.of(tensors)
    assert str(both) == "density 0.1 to 0.3, scope model and tensor, lambda 1 to 1.5"
    automatic = {"scope": "tensor", "density": {"a": 0.2}, "lambda": "auto"}
    assert str(Setting.of([automatic])) == "density 0.2, scope tensor"
    mixed = Setting.of([automatic, tensors[0]])
    assert str(mixed) == "density 0.1 to 0.3, scope tensor, lambda 1 and auto"
