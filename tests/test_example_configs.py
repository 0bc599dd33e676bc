"""Every recipe in example_configs/, run as it stands on tiny models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mergekit.merge_methods import get, merge_state_dicts
from mergekit.scripts import merge_raw_pytorch, multimerge, run_yaml
from safetensors.torch import save_file

import mergekit_pcb  # noqa: F401  # registers pcb where the start-up file does not run
from tests.oracle import assert_merge
from tests.tiny import (
    QUIET,
    VOCAB,
    Model,
    Tensors,
    assert_same,
    fine_tune,
    invoke,
    llama_weights,
    merge,
    random_weights,
    read,
    same,
    save_family,
    save_llama,
    save_tokenizer,
    tensors_of,
)

EXAMPLES = Path(__file__).parents[1] / "example_configs"
Recipe = dict[str, Any]


def example_plain(recipes: list[Recipe], tmp_path: Path) -> None:
    (recipe,) = recipes
    base, tuned = save_family(tmp_path, count_models(recipe) - 1, layers=3)
    wide = fine_tune(llama_weights(layers=3, vocab=VOCAB + 1), 9)
    tuned.append(save_llama(tmp_path / "wide", wide))
    for model in (base, *tuned):
        save_tokenizer(model.path, ["added"] if model is tuned[-1] else [])
    fill_in(recipe, base, tuned)
    out, _ = merge(run_yaml.main, recipe, tmp_path / "merged")
    # The recipe's `tokenizer: {source: base}` leaves the added token out.
    models = tensors_of(tuned)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        models[-1][name] = models[-1][name][:VOCAB]
    assert_example(read(out), recipe, base.tensors, models)


def example_with_ties(recipes: list[Recipe], tmp_path: Path) -> None:
    base, tuned = save_family(tmp_path, count_models(recipes[0]))
    for model in (base, *tuned):
        save_tokenizer(model.path)
    for recipe in recipes:
        fill_in(recipe, base, tuned)
    file = tmp_path / "both.yml"
    file.write_text(yaml.safe_dump_all(recipes))
    result = invoke(multimerge.main, file, "-I", tmp_path / "merged", *QUIET)
    assert result.exception is None, result.output
    by_pcb, by_ties = (tmp_path / "merged" / recipe["name"] for recipe in recipes)
    assert_example(read(by_pcb), recipes[0], base.tensors, tensors_of(tuned))
    parameters = recipes[1]["parameters"]
    for name in ("density", "weight"):
        parameters[name] = [parameters[name]] * len(tuned)
    expected = merge_state_dicts(
        [base.tensors, *tensors_of(tuned)],
        recipes[1]["merge_method"],
        base=0,
        parameters=parameters,
        dtype=torch.bfloat16,
    )
    assert_same(read(by_ties), expected)


def example_lora(recipes: list[Recipe], tmp_path: Path) -> None:
    (recipe,) = recipes
    # Bfloat16, as published bases are: only --lora-merge-dtype saves small changes.
    base = save_llama(tmp_path / "base", llama_weights(), dtype=torch.bfloat16)
    adapters = [
        save_adapter(base, tmp_path / f"adapter{i}", seed=i)
        for i in range(count_models(recipe))
    ]
    recipe["base_model"] = str(base.path)
    for entry, adapter in zip(recipe["models"], adapters, strict=True):
        assert entry["model"].count("+") == 1
        entry["model"] = f"{base.path}+{adapter}"
    cache = tmp_path / "cache"
    options = ("--lora-merge-cache", cache, "--lora-merge-dtype", "float32")
    out, _ = merge(run_yaml.main, recipe, tmp_path / "merged", *options)

    added = {re.search(r"adapter\d", path.name)[0]: path for path in cache.iterdir()}
    models = [read(added[adapter.name]) for adapter in adapters]
    assert {w.dtype for model in models for w in model.values()} == {torch.float32}
    changed = {
        name for name in base.tensors if not same(models[0][name], base.tensors[name])
    }
    assert changed == {
        f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in "qv"
    }
    merged = read(out)
    assert_example(merged, recipe, base.tensors, models)
    for name in base.tensors:
        assert same(merged[name], base.tensors[name]) == (name not in changed)


def example_pytorch(recipes: list[Recipe], tmp_path: Path) -> None:
    (recipe,) = recipes
    shapes = {
        "vision_model.embeddings.class_embedding": (16,),
        "vision_model.encoder.layers.0.self_attn.q_proj.weight": (16, 16),
        "vision_model.encoder.layers.0.self_attn.q_proj.bias": (16,),
        "visual_projection.weight": (8, 16),
        "logit_scale": (),
    }
    common = random_weights(shapes)
    positions = {"vision_model.embeddings.position_ids": torch.arange(50)[None]}
    text = random_weights({"text_model.embeddings.weight": (32, 16)})
    tuned = [fine_tune(common, i) for i in range(count_models(recipe))]
    files = []
    for i, weights in enumerate([common | text, *tuned]):
        files.append(tmp_path / f"{i}.safetensors")
        save_file(weights | positions, files[-1])
    recipe["base_model"] = str(files[0])
    for entry, file in zip(recipe["models"], files[1:], strict=True):
        entry["model"] = str(file)
    command, out = merge_raw_pytorch.main, tmp_path / "merged"
    merge(command, recipe, out, "--tensor-intersection")
    merged = read(out)
    assert same(merged.pop(*positions), *positions.values())
    assert_example(merged, recipe, common, tuned)


# A recipe in example_configs/ that is missing here fails by name.
EXAMPLE_RUNNERS = {
    "pcb.yml": example_plain,
    "pcb-gradients.yml": example_plain,
    "pcb-lora.yml": example_lora,
    "pcb-model-scope.yml": example_plain,
    "pcb-pytorch.yml": example_pytorch,
    "pcb-vs-ties.yml": example_with_ties,
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yml")))
def test_example_recipe_gives_what_the_oracle_says(name: str, tmp_path: Path) -> None:
    """Every recipe in example_configs/ runs as it stands and merges as it says."""
    assert name in EXAMPLE_RUNNERS, f"no test runs example_configs/{name}"
    recipes = list(yaml.safe_load_all((EXAMPLES / name).read_text()))
    EXAMPLE_RUNNERS[name](recipes, tmp_path)


def test_readme_lists_every_recipe() -> None:
    """The folder's README offers every recipe in it, and no other."""
    text = (EXAMPLES / "README.md").read_text()
    offered = re.findall(r"^\| \[(.+?)\]\(\1\)", text, re.MULTILINE)
    recipes = EXAMPLES.rglob("*.yml")
    assert sorted(offered) == sorted(str(p.relative_to(EXAMPLES)) for p in recipes)


def count_models(recipe: Recipe) -> int:
    return len(recipe["models"])


def fill_in(recipe: Recipe, base: Model, tuned: list[Model]) -> None:
    """Put tiny models in place of the recipe's."""
    parameters = recipe.get("parameters", {})
    if parameters.get("scope") == "model":
        # `auto` is found of a sample there, which tests/plugin looks at.
        parameters.setdefault("lambda", 1.0)
    recipe["base_model"] = str(base.path)
    for entry, model in zip(recipe["models"], tuned, strict=True):
        entry["model"] = str(model.path)


def assert_example(
    out: Tensors, recipe: Recipe, base: Tensors, models: list[Tensors]
) -> None:
    """Compare with the oracle under the parameters of a recipe that lists models."""
    layers = sum("q_proj" in name for name in base)
    defaults = {p.name: p.default for p in get("pcb").spec.parameters}

    def setting(key: str) -> Callable[[str, int], float]:
        def chosen(name: str, model: int) -> float:
            depth = re.search(r"layers\.(\d+)\.", name)
            t = int(depth[1]) / max(layers - 1, 1) if depth else 0
            for holder in (recipe["models"][model], recipe):
                value = holder.get("parameters", {}).get(key)
                value = None if value is None else at(value, name, t)
                if value is not None:
                    return value
            return defaults[key]

        return chosen

    overall = defaults | recipe.get("parameters", {})
    assert_merge(
        out,
        base,
        models,
        density=setting("density"),
        weight=setting("weight"),
        scale=setting("lambda"),
        dtype=getattr(torch, recipe["dtype"]),
        scope=overall["scope"],
        inter=overall["inter"],
        clamp=overall["clamp"],
    )
    dtype = getattr(torch, recipe.get("out_dtype", recipe["dtype"]))
    assert {tensor.dtype for tensor in out.values()} == {dtype}


def at(value: Any, name: str, t: float) -> float | None:
    """A recipe's setting for one tensor: a number, a gradient, or a filtered list."""
    if not isinstance(value, list):
        return value
    if isinstance(value[0], dict):
        fits = [v["value"] for v in value if v.get("filter", "") in name]
        return at(fits[0], name, t) if fits else None
    knots = [i / (len(value) - 1) for i in range(len(value))]
    return float(np.interp(t, knots, value))


def save_adapter(base: Model, folder: Path, seed: int) -> Path:
    """Write a LoRA adapter whose changes bfloat16 would partly lose."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.01)
    adapted.save_pretrained(folder)
    return folder
