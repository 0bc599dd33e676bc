"""Merge three fine-tunes of a real model with PCB and its peers, and compare.

``python -m experiments.smollm2`` fetches SmolLM2-135M and three kinds of text, makes a
short fine-tune on each, and hands them to ``mergekit-pcb compare`` with the same number
of settings for every method and a task of lm-evaluation-harness for each kind of text:
validation text chooses the settings, test text is shown.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import transformers
import yaml

from experiments import smollm2_grid, smollm2_tasks
from experiments.smollm2_models import Training, fine_tune, prepare_base
from experiments.smollm2_texts import DOMAINS, Split, read_documents, split_documents
from experiments.suites import packages as pinned
from mergekit_pcb.compare.command import compare
from mergekit_pcb.output.figures import why_no_figures

TEXT_BYTES = {"train_bytes": 300_000, "validation_bytes": 3_000, "test_bytes": 6_000}
DISK_BYTES = 5 * 10**9
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
# What is copied from the comparison, and what it is called among other results.
COPIES = {
    "comparison.md": "smollm2.md",
    "comparison.json": "smollm2.json",
    "scores.png": "smollm2-scores.png",
    "settings.png": "smollm2-settings.png",
}


@click.command()
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=CACHE / "mergekit-pcb" / "smollm2",
    show_default=True,
    help="Folder for packages, models and recipes (about 3 GB); finished parts stay.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for smollm2.md, smollm2.json and the pictures.  [default: those of "
    "the checkout, experiments/results and docs/pictures]",
)
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Arithmetic of training and scoring; merges are always float32.",
)
def main(work: Path, out: Path | None, precision: str) -> None:
    """Compare PCB with its peers on three short fine-tunes of SmolLM2-135M."""
    if missing := why_no_figures():
        raise click.ClickException(missing)
    work, out = work.expanduser().absolute(), out and out.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(work).free < DISK_BYTES:
        need = f"{DISK_BYTES / 1e9:.0f} GB of free disk"
        raise click.ClickException(f"{work} needs {need}; --work DIR takes another")
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    training = Training(precision=precision)
    study = work / f"study-{_digest(_conditions(training))}"
    texts = _texts(work / "packages", training.seed)
    _make_models(study / "models", work / "packages", texts, training)
    smollm2_tasks.write_tasks(texts, study / "tasks")
    (study / "smollm2.yml").write_text(_recipe(study / "models"), encoding="utf-8")
    _compare(study, precision)
    for source, target in COPIES.items():
        folder = out or (PICTURES if target.endswith(".png") else RESULTS)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(study / "comparison" / source, folder / target)
        click.echo(f"Copied {folder / target}")


def _conditions(training: Training) -> dict[str, Any]:
    """What a fine-tune depends on."""
    names = ("mergekit", "torch", "transformers", "tokenizers")
    used = (pinned.SMOLLM2, pinned.GGUF_READER)
    used += (pinned.QURAN, pinned.ORANGE, pinned.WORDNET)
    return {
        "packages": [f"{p.tool} {p.name} {p.version} ({p.licence})" for p in used],
        "versions": {name: importlib.metadata.version(name) for name in names},
        "training": asdict(training),
        "text_bytes": TEXT_BYTES,
    }


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _texts(packages: Path, seed: int) -> dict[str, Split]:
    return {
        domain: split_documents(
            read_documents(domain, packages), **TEXT_BYTES, seed=seed
        )
        for domain in DOMAINS
    }


def _make_models(
    folder: Path, packages: Path, texts: Mapping[str, Split], training: Training
) -> None:
    base = folder / "base"
    prepare_base(base, packages)
    for domain, split in texts.items():
        fine_tune(base, split.train, folder / domain, training, domain)


def _recipe(models: Path) -> str:
    """What shall be merged; the settings of each method are swept.

    Paths are absolute: for a relative one with a single slash, mergekit asks the hub
    whether it is a model's name there.
    """
    document = {
        "merge_method": "pcb",
        "base_model": str(models / "base"),
        "models": [{"model": str(models / domain)} for domain in DOMAINS],
        "dtype": "float32",
    }
    return yaml.safe_dump(document, sort_keys=False)


def _compare(study: Path, precision: str) -> None:
    # The report names the recipe as it is named here, which should be short.
    os.chdir(study)
    arguments = ["smollm2.yml", "--out", "comparison", "--keep", "none"]
    arguments += smollm2_tasks.options(DOMAINS, study / "tasks")
    arguments += smollm2_grid.options()
    arguments += ["--model-args", f"dtype={precision}"]
    compare.main(arguments, standalone_mode=False)


if __name__ == "__main__":
    main()
