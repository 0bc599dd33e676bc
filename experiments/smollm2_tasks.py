"""Held-out text as tasks of lm-evaluation-harness: bits per byte, read from files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from experiments.smollm2_texts import Split

_VALIDATION = "_validation"


def write_tasks(texts: Mapping[str, Split], folder: Path) -> None:
    """Write two task files for each domain, and their extracts beside them."""
    for domain, split in texts.items():
        _write_task(domain, split.test, folder)
        _write_task(f"{domain}{_VALIDATION}", split.validation, folder)


def options(domains: Sequence[str], folder: Path) -> list[str]:
    """How ``mergekit-pcb compare`` is told to evaluate by these tasks."""
    choosing = (f"{domain}{_VALIDATION}" for domain in domains)
    return [
        *("--tasks", ",".join(domains)),
        *("--validation-tasks", ",".join(choosing)),
        *("--include-path", str(folder)),
    ]


def _write_task(name: str, extracts: Sequence[str], folder: Path) -> None:
    data = folder / f"{name}.jsonl"
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}],
        "metadata": {"version": 1.0},
    }
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in extracts)
    _write("".join(f"{line}\n" for line in lines), data)
    _write(yaml.safe_dump(task, sort_keys=False), folder / f"{name}.yaml")


def _write(text: str, file: Path) -> None:
    # A file that is written again counts as another, and so do the scores by it.
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
