"""Candidates a minute: `mergekit-pcb search --tasks` beside `mergekit-evolve`.

    python -m experiments.benchmark_evolve recipe.yml --texts texts.txt

Both look for settings of a recipe for pcb by one task of lm-evaluation-harness, the
bits per byte of some texts, with about the same number of evaluations, one after the
other on the same machine. The harness scores as many texts of each candidate in both:
`search` chooses by every other text, so it gets twice as many.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

from experiments.merge_runs import conditions, record, script

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
TASK = "texts"
_GENERATION = re.compile(r"Received (\d+) genotypes")


class Run(NamedTuple):
    """One whole command.

    Attributes:
        evaluations: of models by the harness.
        seconds: from start to end.
    """

    evaluations: int
    seconds: float


@click.command()
@click.argument(
    "recipe",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
)
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="One text a line.",
)
@click.option(
    "--count", default=6, show_default=True, help="Texts that score a candidate."
)
@click.option(
    "--evaluations", default=36, show_default=True, help="Of mergekit-evolve."
)
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RESULTS / "benchmark_evolve.md",
    help="Where to write the table; a JSON file goes beside it.",
)
def main(
    recipe: Path,
    texts: Path,
    count: int,
    evaluations: int,
    repeat: int,
    markdown: Path,
) -> None:
    """Compare the candidates a minute of both commands."""
    document = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    lines = texts.read_text(encoding="utf-8").splitlines()[: 2 * count]
    found: dict[str, Any] = {"runs": {}, **conditions()}
    found["size"] = {"models": len(document["models"]), "texts a candidate": count}
    for _ in range(repeat):
        # In mergekit 0.1.5, mergekit-evolve --in-memory fails for every method.
        for name in ("search", "evolve"):
            with tempfile.TemporaryDirectory(dir=recipe.parent) as scratch:
                folder = Path(scratch)
                write_task(folder / "tasks", lines)
                if name == "search":
                    run = searched(recipe, folder)
                else:
                    genome = genome_of(document, count)
                    (folder / "genome.yml").write_text(yaml.safe_dump(genome))
                    run = evolved(folder, evaluations)
            click.echo(f"{name}: {run.evaluations} in {run.seconds:.0f} s", err=True)
            found["runs"].setdefault(name, []).append(run._asdict())
    lines = table(found["runs"])
    click.echo("\n".join(lines))
    record(markdown, lines, found)


def write_task(folder: Path, texts: Sequence[str]) -> None:
    """A task file of the harness beside its texts."""
    folder.mkdir()
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (folder / f"{TASK}.yaml").write_text(yaml.safe_dump(task))


def genome_of(recipe: Mapping[str, Any], count: int) -> dict[str, Any]:
    """What mergekit-evolve is given for a recipe: one weight and density a model."""
    return {
        "genome": {
            "merge_method": recipe["merge_method"],
            "base_model": recipe["base_model"],
            "models": [entry["model"] for entry in recipe["models"]],
            "layer_granularity": 0,
            "normalize": False,
        },
        # It maximises the sum.
        "tasks": [{"name": TASK, "weight": -1.0, "metric": "bits_per_byte,none"}],
        "limit": count,
        "apply_chat_template": False,
    }


def searched(recipe: Path, folder: Path) -> Run:
    """Search's grid and the lambdas after it, scored by the task."""
    command = [script("mergekit-pcb"), "search", str(recipe)]
    command += ["--out", str(folder / "out")]
    options = ["--tasks", TASK, "--include-path", str(folder / "tasks"), "--quiet"]
    seconds, _ = _timed([*command, *options], folder)
    scored = (folder / "out" / "candidates.jsonl").read_text().splitlines()
    return Run(len(scored), seconds)


def evolved(folder: Path, evaluations: int) -> Run:
    """A search by mergekit-evolve on one worker, without its final merge."""
    command = [sys.executable, "-m", "experiments.evolve"]
    command += [str(folder / "genome.yml")]
    command += ["--storage-path", str(folder / "evolved"), "--num-gpus", "1"]
    command += ["--task-search-path", str(folder / "tasks"), "--no-save-final-model"]
    command += ["--max-fevals", str(evaluations), "--no-merge-cuda"]
    seconds, output = _timed(command, folder)
    return Run(sum(map(int, _GENERATION.findall(output))), seconds)


def _timed(command: Sequence[str], folder: Path) -> tuple[float, str]:
    """Run a command that must succeed in a folder: its seconds, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}: {done.returncode}")
    return time.perf_counter() - start, done.stdout


def table(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Candidates a minute, start and end of each command included; medians."""
    rates = {
        name: statistics.median(60 * r["evaluations"] / r["seconds"] for r in several)
        for name, several in runs.items()
    }
    lines = [
        "| command | evaluations | candidates a minute | to evolve |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, several in runs.items():
        counts = statistics.median(run["evaluations"] for run in several)
        ratio = rates[name] / rates["evolve"]
        lines.append(f"| {name} | {counts:.0f} | {rates[name]:.1f} | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    main()
