"""Which part of a model a tensor belongs to, judged by its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

OUTSIDE = "outside"
"""Label of tensors in no layer: embeddings, the head and the last norm."""

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


def kind_of(name: str) -> str:
    """The kind of a tensor, one of `KINDS`.

    Example:
        >>> kind_of("model.layers.3.post_attention_layernorm.weight")
        'norm'
    """
    lower = name.lower()
    return next((kind for kind, p in _PATTERNS if re.search(p, lower)), "other")


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack and number of a tensor's layer, or None if it is outside all layers.

    Example:
        >>> layer_of("decoder.block.3.layer.0.SelfAttention.q.weight")
        ('decoder.block', 3)
    """
    found = _LAYER.match(name)
    return (found[1] or "", int(found[2])) if found else None


def layer_labels(names: Collection[str]) -> dict[str, str]:
    """The label of each tensor's layer, by name of the tensor, in the order of layers.

    Stacks come in the order of their first tensors, and what is outside last.

    Example:
        >>> layer_labels(["head.weight", "layers.1.weight", "layers.0.weight"])
        {'layers.0.weight': '0', 'layers.1.weight': '1', 'head.weight': 'outside'}
    """
    layers = {name: layer for name in names if (layer := layer_of(name))}
    stacks = _stack_labels(stack for stack, _ in layers.values())
    order = {stack: place for place, stack in enumerate(stacks)}
    inside = sorted(layers.items(), key=lambda at: (order[at[1][0]], at[1][1]))
    labels = {name: f"{stacks[stack]} {n}".strip() for name, (stack, n) in inside}
    return {**labels, **{name: OUTSIDE for name in names if name not in layers}}


def _stack_labels(stacks: Iterable[str]) -> dict[str, str]:
    """For each stack the part of its name that tells it from others; none if alone."""
    parts = {stack: stack.split(".") for stack in stacks}
    if len(parts) < 2:
        return dict.fromkeys(parts, "")
    shortest, *_, longest = sorted(map(len, parts.values()))
    start = 0
    while start < shortest - 1 and len({part[start] for part in parts.values()}) == 1:
        start += 1
    for end in range(start + 1, longest + 1):
        names = {stack: ".".join(part[start:end]) for stack, part in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names
