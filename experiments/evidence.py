"""The tables of evidence: merges of real fine-tunes, scored beside their peers.

    python -m experiments.evidence text --table cross-task --seeds 0,1,2 --work FOLDER

Makes the fine-tunes that are missing, has `mergekit_pcb.compare` merge and score them,
and writes experiments/results/SUITE-TABLE.json. What is there already is not done
again. `python -m experiments.results` makes tables and pictures of the files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
import yaml

from experiments import ablation, control, sensitivity
from experiments.cases import Case, Found, measure_all, opened
from experiments.flat_merge import merge_by
from experiments.settings import METHODS, TRIES
from experiments.suites.evaluation import SuiteEvaluation
from experiments.suites.registry import SUITES, open_suite
from experiments.suites.suite import Place, Suite, Training, digest, fine_tuned
from experiments.tables import COMPARISONS
from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.compare.evaluation import standard_error
from mergekit_pcb.compare.recipe import compare_recipe
from mergekit_pcb.compare.report import Report
from mergekit_pcb.compare.scoreboard import EXPERT, Row

RESULTS = Path(__file__).parent / "results"
# Tables that are no comparisons: their cases, and what measures one.
OTHERS = {
    "ablation": (ablation.cases, ablation.measure),
    "sensitivity": (sensitivity.cases, sensitivity.measure),
    "control": (control.cases, control.measure),
}
# The row that others are compared with.
OURS = "pcb"


@click.command()
@click.argument("name", metavar="SUITE", type=click.Choice(list(SUITES)))
@click.option(
    "--table",
    type=click.Choice([*COMPARISONS, *OTHERS]),
    required=True,
    help="Which table.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Of fine-tunes.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option(
    "--merge-device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Of mergekit-yaml, which merges the language models.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=RESULTS,
    help="Folder of the JSON files.  [default: experiments/results]",
)
@click.option("--jobs", default=1, show_default=True, help="Processes at a time.")
@click.option(
    "--only",
    type=click.Choice(["untuned", "tuned"]),
    help="One of the two halves of a table of comparisons.",
)
@click.option(
    "--group", help="Only groups with this in their name, such as `6 models`."
)
def main(
    name: str,
    table: str,
    seeds: str,
    work: Path,
    device: str,
    merge_device: str,
    results: Path,
    jobs: int,
    only: str | None,
    group: str | None,
) -> None:
    """Fill one table of one suite."""
    torch.set_num_threads(1)
    place = Place(work.absolute(), device, merge_device)
    suite = open_suite(name, place)
    numbers = [int(seed) for seed in seeds.split(",")]
    if table in COMPARISONS:
        comparisons = [
            {"suite": name, "table": table, "tuned": tuned, **comparison}
            for tuned in (False, True)
            for comparison in COMPARISONS[table](suite, numbers)
            if only in (None, "tuned" if tuned else "untuned")
        ]
        measure = compared
    else:
        make, measure = OTHERS[table]
        comparisons = make(suite, numbers)
    chosen = [case for case in comparisons if (group or "") in case["group"]]
    file = results / f"{name}-{table}.json"
    measure_all(chosen, measure, place, jobs, file)
    click.echo(f"{file} has {len(chosen)} cases; see `python -m experiments.results`")


def compared(case: Case, place: Place) -> Found:
    """One comparison: scores of each row, and paired differences from ours."""
    suite = opened(case["suite"], place)
    experts = {
        suite.reference(made(suite, place, model)): model["task"]
        for model in case["models"]
    }
    folder = place.work / "comparisons" / case["suite"] / digest(case)
    recipe = folder / "recipe.yml"
    document = {
        "merge_method": OURS,
        "base_model": str(suite.prepare()),
        "models": [{"model": reference} for reference in experts],
        "dtype": "float32",
    }
    write_file(recipe, yaml.safe_dump(document, sort_keys=False))
    report = compare_recipe(
        str(recipe),
        folder / "comparison",
        lambda inputs: SuiteEvaluation(suite, place, case["shown"], case["choosing"]),
        methods=METHODS,
        swept=TRIES if case["tuned"] else {},
        keep="none",
        quiet=True,
        merge=merge_by(suite.front_end, place),
        merge_options={"lora_merge_cache": str(place.adapters)},
    )
    return {"rows": rows(report, list(experts.values()))}


def made(suite: Suite, place: Place, model: dict[str, Any]) -> Path:
    """The folder of a model of a case."""
    training = Training(**model["training"])
    return fine_tuned(suite, place, model["task"], model["seed"], training)


def rows(report: Report, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a report without their items, each with its difference from ours.

    Args:
        report: of the comparison.
        tasks: of the experts, in the order of the recipe.
    """
    ours = next((row for row in report.rows if row.name == OURS), None)
    trained = iter(tasks)
    return [
        {
            "kind": row.kind,
            "name": next(trained) if row.kind == EXPERT else row.name,
            "settings": row.label,
            "failed": row.failed,
            "values": {task: round(s.value, 5) for task, s in row.scores.items()},
            "difference": difference(row, ours),
            "tried": [
                [tried.label, round(fmean(s.value for s in tried.scores.values()), 5)]
                for tried in row.tried
                if tried.scores and len(row.tried) > 1
            ],
        }
        for row in report.rows
    ]


def difference(row: Row, ours: Row | None) -> list[float] | None:
    """Mean over tasks of row - ours, paired item by item, and its standard error."""
    if ours is None or row.failed or ours.failed:
        return None
    means, squares = [], []
    for task, score in row.scores.items():
        pairs = zip(score.items or (), ours.scores[task].items or (), strict=True)
        gaps = [theirs - our for theirs, our in pairs]
        means.append(fmean(gaps))
        squares.append((standard_error(gaps) or 0.0) ** 2)
    return [round(fmean(means), 5), round(math.sqrt(sum(squares)) / len(squares), 5)]


if __name__ == "__main__":
    main()
