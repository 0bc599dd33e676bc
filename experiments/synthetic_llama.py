"""Llama models of any size with random weights: a base and fine-tunes of it.

    python -m experiments.synthetic_llama FOLDER [--layers 8 --hidden 2048 --models 3]

What a model says is nonsense; the changes of its fine-tunes are heavy-tailed, as real
ones are. Written in bfloat16, a shard for each layer, so that memory is needed for one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from safetensors.torch import save_file

Shapes = dict[str, tuple[int, ...]]


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--layers", default=8, show_default=True)
@click.option("--hidden", default=2048, show_default=True, help="A multiple of 64.")
@click.option("--vocab", default=32_000, show_default=True)
@click.option("--models", default=3, show_default=True, help="Fine-tunes.")
def main(folder: Path, layers: int, hidden: int, vocab: int, models: int) -> None:
    """Write FOLDER/base, FOLDER/tuned0, FOLDER/tuned1, ..."""
    shards = list(shapes(layers, hidden, vocab))
    names = ["base", *(f"tuned{i}" for i in range(models))]
    for which, name in enumerate(names):
        write(folder / name, shards, which)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner(hidden),
        "num_hidden_layers": layers,
        "num_attention_heads": max(hidden // 64, 1),
        "num_key_value_heads": max(hidden // 64, 1),
        "vocab_size": vocab,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    for name in names:
        (folder / name / "config.json").write_text(json.dumps(config))


def inner(hidden: int) -> int:
    """Width of the feed-forward layers: Llama's proportion."""
    return hidden * 11 // 4 // 16 * 16


def shapes(layers: int, hidden: int, vocab: int) -> Iterator[Shapes]:
    """The tensors of each shard."""
    yield {"model.embed_tokens.weight": (vocab, hidden)}
    square, up = (hidden, hidden), (inner(hidden), hidden)
    for i in range(layers):
        prefix = f"model.layers.{i}."
        tensors = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            **{f"self_attn.{part}_proj": square for part in "qkvo"},
            "mlp.gate_proj": up,
            "mlp.up_proj": up,
            "mlp.down_proj": up[::-1],
        }
        yield {f"{prefix}{name}.weight": shape for name, shape in tensors.items()}
    yield {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def count(layers: int, hidden: int, vocab: int) -> int:
    """Parameters of such a model."""
    shards = shapes(layers, hidden, vocab)
    return sum(
        torch.Size(shape).numel() for shard in shards for shape in shard.values()
    )


def write(folder: Path, shards: list[Shapes], which: int) -> None:
    """Write the weights of the base (0) or of a fine-tune."""
    folder.mkdir(parents=True)
    weight_map = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        tensors = {name: tensor(name, shape, which) for name, shape in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def tensor(name: str, shape: tuple[int, ...], which: int) -> torch.Tensor:
    """A tensor of the base (0) or of a fine-tune, the same whenever it is made."""
    result = random(f"{name} 0", shape).mul_(0.02)
    if which:
        change = random(f"{name} {which}", shape)
        result += change.pow_(3).mul_(1e-3)
    return result.bfloat16()


def random(what: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Normally distributed numbers that depend on nothing but the arguments."""
    generator = torch.Generator().manual_seed(zlib.crc32(what.encode()))
    return torch.randn(shape, generator=generator)


if __name__ == "__main__":
    main()
