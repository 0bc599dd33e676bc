"""Models of a few thousand weights, on disk, and mergekit's commands run on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

HIDDEN, INNER, VOCAB = 16, 32, 64
# Without a tokenizer to copy, mergekit logs a page of traceback.
QUIET = ("--quiet", "--no-copy-tokenizer")

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Model:
    """A model folder and what is in it.

    Attributes:
        path: absolute, because of a relative path with one slash mergekit's model card
            asks the hub.
        tensors: its weights.
    """

    path: Path
    tensors: Tensors


def llama_weights(
    seed: int = 0, *, layers: int = 2, vocab: int = VOCAB, head: bool = True
) -> Tensors:
    """Weights of a Llama; without ``head`` the output is tied to the embedding."""
    square, up = (HIDDEN, HIDDEN), (INNER, HIDDEN)
    shapes = {"model.embed_tokens.weight": (vocab, HIDDEN)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": square,
            "self_attn.k_proj": square,
            "self_attn.v_proj": square,
            "self_attn.o_proj": square,
            "post_attention_layernorm": (HIDDEN,),
            "mlp.up_proj": up,
            "mlp.gate_proj": up,
            "mlp.down_proj": up[::-1],
        }.items():
            shapes[f"{layer}{name}.weight"] = shape
    shapes["model.norm.weight"] = (HIDDEN,)
    if head:
        shapes["lm_head.weight"] = (vocab, HIDDEN)
    return random_weights(shapes, seed)


def random_weights(shapes: dict[str, Sequence[int]], seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.05
        for name, shape in shapes.items()
    }


def fine_tune(base: Tensors, seed: int) -> Tensors:
    """The base with heavy-tailed changes to everything."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return {
        name: tensor + torch.randn(tensor.shape, generator=generator) ** 3 * 0.01
        for name, tensor in base.items()
    }


def save_llama(
    folder: Path,
    tensors: Tensors,
    *,
    dtype: torch.dtype = torch.float32,
    architecture: str = "LlamaForCausalLM",
) -> Model:
    """Write a Llama folder that mergekit and transformers can read."""
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    config = {
        "architectures": [architecture],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": sum("q_proj" in name for name in tensors),
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tensors["model.embed_tokens.weight"]),
        "max_position_embeddings": 32,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Model(folder.absolute(), tensors)


def save_family(
    folder: Path,
    count: int = 3,
    *,
    dtype: torch.dtype = torch.float32,
    layers: int = 2,
    head: bool = True,
) -> tuple[Model, list[Model]]:
    """Write a base and fine-tunes of it."""
    weights = llama_weights(layers=layers, head=head)
    base = save_llama(folder / "base", weights, dtype=dtype)
    return base, [
        save_llama(folder / f"tuned{i}", fine_tune(weights, i), dtype=dtype)
        for i in range(count)
    ]


def save_classifiers(folder: Path, with_bias: Sequence[bool]) -> list[Model]:
    """Write a base and fine-tunes with the optional ``score.bias``, or without it."""
    weights = llama_weights(head=False)
    weights |= random_weights({"score.weight": (90, 16), "score.bias": (90,)}, seed=5)
    models = []
    for i, keep in enumerate(with_bias):
        tensors = fine_tune(weights, i) if i else dict(weights)
        if not keep:
            del tensors["score.bias"]
        architecture = "LlamaForSequenceClassification"
        models.append(save_llama(folder / f"{i}", tensors, architecture=architecture))
    return models


def tensors_of(models: Iterable[Model]) -> list[Tensors]:
    return [model.tensors for model in models]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers, of whatever dtype."""
    return a.shape == b.shape and torch.equal(a.double(), b.double())


def assert_same(out: Tensors, expected: Tensors) -> None:
    assert out.keys() == expected.keys()
    assert not [name for name in out if not same(out[name], expected[name])]


def in_two_shards(model: Model, *, missing: str) -> None:
    """Write the weights anew, with an index that lists a tensor that is not there."""
    (model.path / "model.safetensors").unlink()
    names = sorted(model.tensors)
    weight_map = {}
    for number in (0, 1):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        part = {name: model.tensors[name] for name in names[number::2]}
        save_file(part, model.path / file)
        weight_map |= dict.fromkeys(part, file)
    weight_map[missing] = file
    index = model.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def save_tokenizer(folder: Path, added: Iterable[str] = ()) -> None:
    """Write a tokenizer of `VOCAB` words, and more if there are ``added`` tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(VOCAB)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="w0", bos_token="w1", eos_token="w2"
    )
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(folder)


def read(folder: Path) -> Tensors:
    """The weights of a model folder of one shard."""
    return load_file(folder / "model.safetensors")


def invoke(command: click.Command, *arguments: object) -> Result:
    """Run a click command as from a shell."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def error_line(result: Result) -> str:
    """The one line that a command prints about what it cannot do."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback, not a line"
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert "Traceback" not in result.output
    return lines[-1].removeprefix("Error: ")


def merge(
    command: click.Command, recipe: Any, out: Path, *options: object
) -> tuple[Path, Result]:
    """Write ``recipe`` beside ``out`` and run a command on it that must succeed."""
    file = write_recipe(recipe, out.with_name(out.name + ".yml"))
    result = invoke(command, file, out, *QUIET, *options)
    if result.exception is not None:
        raise AssertionError(result.output) from result.exception
    return out, result


def write_recipe(recipe: Any, file: Path) -> Path:
    """Write a recipe, whose models may be of this module's `Model`."""
    file.write_text(yaml.safe_dump(_plain(recipe), sort_keys=False))
    return file


def recipe_of(base: Any, tuned: Sequence[Any], **more: Any) -> dict[str, Any]:
    """A pcb recipe in the models form, and what more it shall say."""
    models = [{"model": model} for model in tuned]
    return {"merge_method": "pcb", "base_model": base, "models": models, **more}


def in_slices(
    base: Any,
    tuned: Sequence[Any],
    ranges: Sequence[Sequence[int]],
    density: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """A pcb recipe in the slices form: for each, layers, and densities by model."""
    slices = []
    for layers, densities in zip(ranges, density, strict=True):
        sources = [{"model": base, "layer_range": layers}]
        for model, r in zip(tuned, densities, strict=True):
            own = {"parameters": {"density": r}}
            sources.append({"model": model, "layer_range": layers, **own})
        slices.append({"sources": sources})
    return {"merge_method": "pcb", "base_model": base, "slices": slices}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Model):
        return str(value.path)
    return str(value) if isinstance(value, Path) else value
