"""Merging folders of bare weights with mergekit-pytorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mergekit.scripts import merge_raw_pytorch

from experiments.suites.suite import Place
from mergekit_pcb.compare.merge_process import Cost, merge_here
from mergekit_pcb.output.atomic import complete_or_absent

# Of dropping at random.
SEED = 0


def merge_flat(recipe: Path, out: Path) -> Cost:
    """Run a recipe whose models are folders with one ``model.safetensors`` each."""
    document = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    start = time.perf_counter()
    with complete_or_absent(out) as unfinished:
        unfinished.mkdir()
        written = unfinished / "flat.yml"
        written.write_text(yaml.safe_dump(of_files(document)), encoding="utf-8")
        arguments = [str(written), str(unfinished), "--quiet", f"--random-seed={SEED}"]
        merge_raw_pytorch.main.main(arguments, standalone_mode=False)
    return Cost(round(time.perf_counter() - start, 2), None)


def merge_folders(recipe: Path, out: Path, place: Place) -> Cost:
    """Run a recipe with mergekit-yaml in this process."""
    options = {
        "random_seed": SEED,
        "lora_merge_cache": str(place.adapters),
        "cuda": place.merge_device == "cuda",
    }
    return merge_here(recipe, out, options)


def merge_by(front_end: str, place: Place) -> Callable[[Path, Path], Cost]:
    """What runs the recipes of a suite, for `compare_recipe`."""
    return merge_flat if front_end == "pytorch" else partial(merge_folders, place=place)


def of_files(document: dict[str, Any]) -> dict[str, Any]:
    """The recipe that mergekit-pytorch takes: models are files, settings the same."""
    known = ("merge_method", "models", "parameters", "dtype", "base_model", "out_dtype")
    flat = {key: document[key] for key in known if key in document}
    flat["models"] = [
        {**entry, "model": _file(entry["model"])} for entry in document["models"]
    ]
    if flat.get("base_model"):
        flat["base_model"] = _file(flat["base_model"])
    return flat


def _file(model: str) -> str:
    return str(Path(model) / "model.safetensors")
