"""Tiny models that transformers can evaluate, and merges of them in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from mergekit.options import MergeOptions
from mergekit.scripts import run_yaml

from mergekit_pcb.compare.loading import load_model
from mergekit_pcb.search.bench import Bench
from mergekit_pcb.search.planned import depths, planned
from mergekit_pcb.search.space import Candidate, recipe_of, settings
from tests import tiny

POSITIONS = 128
OPTIONS = MergeOptions(quiet=True)


def language_models(folder: Path, count: int = 2) -> tuple[Path, list[tiny.Model]]:
    """A recipe, and its models: base and fine-tunes with tokenizers."""
    base, tuned = tiny.save_family(folder, count, head=False)
    models = [base, *tuned]
    for model in models:
        tiny.save_tokenizer(model.path)
        configure(model, max_position_embeddings=POSITIONS)
    return tiny.write_recipe(tiny.recipe_of(base, tuned), folder / "r.yml"), models


def configure(model: tiny.Model, **changes: Any) -> None:
    """Change the configuration of a model."""
    file = model.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def inputs(file: Path, count: int = 12) -> Path:
    """A file of inputs in the words of the tiny tokenizer."""
    # Its special tokens, w0 to w2, are also found at the beginning of other words.
    lines = [
        " ".join(f"w{30 + (7 * i + 3 * j) % 30}" for j in range(9))
        for i in range(count)
    ]
    file.write_text("\n".join(lines))
    return file


class Both:
    """A recipe merged in memory and by mergekit-yaml."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        file = tiny.write_recipe(recipe, folder / "start.yml")
        self.start = yaml.safe_load(file.read_text())
        base = Path(self.start["base_model"])
        self.bench = Bench(
            planned(str(file), self.start, OPTIONS),
            lambda: load_model(base, "cpu"),
            folder,
            settings(),
            depths(folder, self.start, OPTIONS),
        )
        self.count = 0

    def in_memory(self, candidate: Candidate) -> tiny.Tensors:
        state = self.bench.model_of(candidate).state_dict()
        return {name: tensor.clone() for name, tensor in state.items()}

    def by_mergekit(self, candidate: Candidate) -> tiny.Tensors:
        self.count += 1
        recipe = recipe_of(self.start, candidate)
        out = self.folder / f"merged{self.count}"
        return tiny.read(tiny.merge(run_yaml.main, recipe, out)[0])

    def assert_same(self, candidate: Candidate) -> None:
        mine, real = self.in_memory(candidate), self.by_mergekit(candidate)
        for name, tensor in real.items():
            assert tiny.same(mine[name], tensor), (str(candidate), name)
