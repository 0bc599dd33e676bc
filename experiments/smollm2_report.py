"""The committed record of a run: one page to read, one JSON with every setting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.score_table import Run, Score, choose, markdown, mean
from experiments.smollm2_grid import BUDGET
from experiments.smollm2_texts import DOMAINS

COMMAND = "python -m experiments.smollm2"


def write_report(
    out: Path,
    conditions: Mapping[str, Any],
    models: Sequence[Run],
    merges: Sequence[Run],
) -> str:
    """Write ``smollm2.md`` and ``smollm2.json`` into ``out``; return the main table."""
    chosen = choose(merges)
    table = markdown(models, chosen, DOMAINS)
    document = {
        "command": COMMAND,
        "conditions": conditions,
        "unit": "bits per byte, lower is better",
        "settings_per_method": BUDGET,
        "models": [_numbers(run) for run in models],
        "merges": [{**_numbers(run), "chosen": run in chosen} for run in merges],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "smollm2.json").write_text(
        json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    page = _page(table, conditions, merges, chosen)
    (out / "smollm2.md").write_text(page, encoding="utf-8")
    return table


def _numbers(run: Run) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "family": run.family,
        "method": run.method,
        "setting": run.label,
    }
    if run.refused:
        return {**numbers, "refused": run.refused}
    for part, scores in (("validation", run.validation), ("test", run.test)):
        numbers[part] = {**_rounded(scores), "mean": round(mean(scores), 5)}
    return numbers


def _rounded(scores: Mapping[str, Score]) -> dict[str, float]:
    return {domain: round(score.bits_per_byte, 5) for domain, score in scores.items()}


def _page(
    table: str,
    conditions: Mapping[str, Any],
    merges: Sequence[Run],
    chosen: Sequence[Run],
) -> str:
    training, sizes = conditions["training"], conditions["text_bytes"]
    versions = ", ".join(f"{k} {v}" for k, v in conditions["versions"].items())
    machine = ", ".join(f"{k} {v}" for k, v in conditions["machine"].items())
    packages = "\n".join(f"* {package}" for package in conditions["packages"])
    tried = "\n".join(_tried(run, chosen) for run in merges)
    return f"""# SmolLM2-135M: three fine-tunes, merged

Made by `{COMMAND}`. Bits per byte of test text, lower is better.

{table}

{_winner(chosen)}

**What it is**: one seed, three fine-tunes of {training["steps"]} steps each, and a
small grid: {BUDGET} settings for each row (`pcb` has two rows), the best of which was
chosen on validation text ({sizes["validation_bytes"]} bytes a domain) and is reported
on test text ({sizes["test_bytes"]} bytes a domain) that no choice has seen. It says how
the methods compare on these models, and nothing of others.

Bold: the best merge. Last column: the mean, less that of the best other method; ± is
the standard error over the windows of the test text, and knows nothing of seeds.

## Every setting tried

| merge | validation | test |
| --- | ---: | ---: |
{tried}

Chosen settings are bold; means over the domains. The JSON beside this page has the
domains.

## Conditions

{packages}

Training: {", ".join(f"{k} {v}" for k, v in training.items())}.
Versions: {versions}.
Machine: {machine}.
"""


def _winner(chosen: Sequence[Run]) -> str:
    merged = [run for run in chosen if not run.refused]
    if not merged:
        return "No merge succeeded."
    best = min(merged, key=lambda run: mean(run.test))
    return f"Best mean of all merges: `{best.family}`, {best.label}."


def _tried(run: Run, chosen: Sequence[Run]) -> str:
    name = f"{run.family} ({run.label})"
    if run.refused:
        return f"| {name} | refused | |"
    bold = "**" if run in chosen else ""
    scores = (mean(part) for part in (run.validation, run.test))
    cells = " | ".join(f"{bold}{value:.4f}{bold}" for value in scores)
    return f"| {bold}{name}{bold} | {cells} |"
