"""Which part of a model a tensor belongs to, judged by its name."""

from __future__ import annotations

import re
from typing import NamedTuple

KINDS = ("embedding", "attention", "MLP", "norm", "head", "other")

# The first pattern that is found decides. Norms come first, because they are named
# after what they stand beside: `post_attention_layernorm`, `embeddings.LayerNorm`.
_PATTERNS = (
    ("norm", r"norm|(^|[._])ln(_\w+)?\."),
    ("head", r"lm_head|embed_out|output_layer\.|classifi|(^|\.)score\.|qa_outputs"),
    ("head", r"^(model\.)?output\.|^cls\.|^vocab_|(^|\.)heads?\."),
    ("embedding", r"embed|(^|\.)wte\.|(^|\.)wpe\.|^shared\."),
    ("attention", r"attn|attention|wqkv|(^|[._])(q|k|v|o|qkv)(_proj|_lin)?\."),
    ("MLP", r"mlp|feed_?forward|ffn|expert|moe|densereludense|intermediate|fc"),
    ("MLP", r"(gate|up|down)_proj|(^|\.)(w[123]|lin[12])\.|\.\d+\.output\.dense\."),
)
_LAYER = re.compile(r"(?:(.*?)\.)?(\d+)(?:\.|$)")


class Layer(NamedTuple):
    """A layer: the stack it is in, as tensors are named there, and its number."""

    stack: str
    number: int


def kind_of(name: str) -> str:
    """The kind of a tensor, one of `KINDS`.

    Example:
        >>> kind_of("model.layers.3.post_attention_layernorm.weight")
        'norm'
    """
    lower = name.lower()
    return next((kind for kind, p in _PATTERNS if re.search(p, lower)), "other")


def layer_of(name: str) -> Layer | None:
    """The layer of a tensor, or None if it stands outside all layers.

    Example:
        >>> layer_of("decoder.block.3.layer.0.SelfAttention.q.weight")
        Layer(stack='decoder.block', number=3)
    """
    found = _LAYER.match(name)
    return Layer(found[1] or "", int(found[2])) if found else None
