"""Kinds and layers of tensors, from their names."""

from __future__ import annotations

import pytest

from mergekit_pcb.plugin.tensor_kinds import kind_of, layer_labels, layer_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("shared.weight", "embedding"),
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("encoder.layer.0.attention.output.dense.bias", "attention"),
        ("transformer.h.3.attn.c_proj.weight", "attention"),
        ("decoder.block.3.layer.1.EncDecAttention.k.weight", "attention"),
        ("model.layers.3.mlp.down_proj.weight", "MLP"),
        ("model.layers.3.block_sparse_moe.experts.7.w1.weight", "MLP"),
        ("encoder.layer.0.output.dense.weight", "MLP"),
        ("decoder.block.3.layer.2.DenseReluDense.wo.weight", "MLP"),
        ("model.layers.3.post_attention_layernorm.weight", "norm"),
        ("transformer.h.3.ln_1.weight", "norm"),
        ("embeddings.LayerNorm.bias", "norm"),
        ("lm_head.weight", "head"),
        ("embed_out.weight", "head"),
        ("output.weight", "head"),
        ("classifier.dense.weight", "head"),
        ("backbone.layers.3.mixer.A_log", "other"),
        ("conv1.weight", "other"),
    ],
)
def test_kinds_of_tensors(name: str, kind: str) -> None:
    """A tensor's kind is in its name, in every architecture's way."""
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.mlp.up_proj.weight", ("model.layers", 12)),
        ("model.layers.3.moe.experts.7.w1.weight", ("model.layers", 3)),
        ("encoder.block.3.layer.0.SelfAttention.q.weight", ("encoder.block", 3)),
        ("0.weight", ("", 0)),
        ("conv1.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_layers_of_tensors(name: str, layer: tuple[str, int] | None) -> None:
    """The first number that stands alone is the layer's."""
    assert layer_of(name) == layer


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
def test_stacks_differ_in_their_labels(stacks: list[str], labels: list[str]) -> None:
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
