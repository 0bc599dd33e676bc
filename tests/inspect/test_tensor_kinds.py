"""Kinds and layers of tensors, told from their names."""

from __future__ import annotations

import pytest

from mergekit_pcb.inspect.tensor_kinds import Layer, kind_of, layer_of


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
        ("model.layers.12.mlp.up_proj.weight", Layer("model.layers", 12)),
        ("model.layers.3.moe.experts.7.w1.weight", Layer("model.layers", 3)),
        ("encoder.block.3.layer.0.SelfAttention.q.weight", Layer("encoder.block", 3)),
        ("0.weight", Layer("", 0)),
        ("conv1.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_layers_of_tensors(name: str, layer: Layer | None) -> None:
    """The first number that stands alone is the layer's."""
    assert layer_of(name) == layer
