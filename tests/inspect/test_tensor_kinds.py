"""Labels of layers, where there are several stacks of them."""

from __future__ import annotations

import pytest

from mergekit_pcb.inspect.tensor_kinds import layer_labels


@pytest.mark.parametrize(
    ("stacks", "labels"),
    [
        (["model.layers"], [""]),
        (["encoder.block", "decoder.block"], ["encoder", "decoder"]),
        (["model.text.layers", "model.image.blocks"], ["text", "image"]),
        (["net.a.x", "net.a.y", "net.b.x"], ["a.x", "a.y", "b.x"]),
        (["h", "h.mlp"], ["h", "h.mlp"]),
        (["", "mid"], ["", "mid"]),
    ],
)
def test_stacks_are_told_apart(stacks: list[str], labels: list[str]) -> None:
    """By as little of their names as it takes."""
    names = [f"{stack}.7.weight".removeprefix(".") for stack in stacks]
    found = layer_labels(names)
    assert list(found) == names
    assert list(found.values()) == [f"{label} 7".strip() for label in labels]


def test_order_of_layers() -> None:
    """By number within a stack, stacks as they come, and last what is in none."""
    names = ["embed.weight", "b.10.w", "a.1.w", "b.9.w", "a.0.w", "norm.weight"]
    assert list(layer_labels(names).values()) == [
        *("b 9", "b 10", "a 0", "a 1", "outside", "outside")
    ]
