"""Metrics summed by kind of tensor and by layer."""

from __future__ import annotations

from mergekit_pcb.inspect.inspection import Inspection


def test_roll_ups(found: Inspection) -> None:
    """Kinds and layers are each the whole model; every tensor is in one of each."""
    assert list(found.kinds()) == ["embedding", "attention", "MLP", "norm", "head"]
    assert list(found.layers()) == ["0", "1", "outside"]
    for parts in (found.kinds(), found.layers()):
        assert sum(metrics.weights for metrics in parts.values()) == found.whole.weights
    assert len(found.by_layer()["0"]) == 9
    assert found.kinds()["MLP"].weights == 2 * 3 * 16 * 32
