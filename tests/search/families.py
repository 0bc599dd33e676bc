"""Tiny models that transformers can evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import tiny

POSITIONS = 128


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
