"""Recipes under `scope: model`, and merges that save their statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergekit_pcb import cli
from mergekit_pcb.plugin import statistics_file
from tests.tiny import QUIET, Model, invoke, recipe_of, write_recipe

MODEL = {"scope": "model", "density": 0.2, "lambda": 1.0}


def recipe(family: tuple[Model, list[Model]], **parameters: Any) -> dict[str, Any]:
    base, tuned = family
    return recipe_of(base, tuned, parameters=MODEL | parameters)


def save(family: tuple[Model, list[Model]], file: Path, **parameters: Any) -> Path:
    """Merge with `mergekit-pcb merge` and keep the statistics; give the model."""
    out = file.with_suffix(".merged")
    document = write_recipe(recipe(family, **parameters), file.with_suffix(".yml"))
    options = (*QUIET, "--save-statistics", file)
    result = invoke(cli.main, "merge", document, out, *options)
    assert result.exception is None, result.output
    statistics_file._cache.clear()
    return out
