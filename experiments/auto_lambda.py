"""How near to the best lambda is lambda = p / projection, and for which p?

    python -m experiments.auto_lambda text --seeds 0 --work FOLDER

Merges fine-tunes in memory, follows the score on validation items along p, and prints
what each p loses against the best lambda of the same merge, by number of models and
density. Cases that the result's file has already are not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from experiments.cases import Case, Found, measure_all, models_of
from experiments.in_memory import (
    added,
    merged_task_vector,
    projections,
    task_vectors,
)
from experiments.suites.registry import SUITES, open_suite
from experiments.suites.suite import Place
from mergekit_pcb.compare.evaluation import VALIDATION

P = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0, 1.2)
DENSITIES = (0.05, 0.1, 0.2, 0.4)
RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("name", metavar="SUITE", type=click.Choice(list(SUITES)))
@click.option("--seeds", default="0", show_default=True, help="Comma-separated.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--jobs", default=1, show_default=True, help="Processes at a time.")
@click.option(
    "--sets", default=2, show_default=True, help="Sets of tasks for each size."
)
@click.option("--items", default=200, show_default=True, help="Of each task, at most.")
@click.option("--kinds", default="tensor one,tensor own,model one", show_default=True)
@click.option("--densities", default=",".join(map(str, DENSITIES)), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Of the JSON file.")
def main(
    name: str,
    seeds: str,
    work: Path,
    device: str,
    jobs: int,
    sets: int,
    items: int,
    kinds: str,
    densities: str,
    out: Path | None,
) -> None:
    """Measure what lambda = p / projection loses against the best lambda."""
    place = Place(work.absolute(), device)
    suite = open_suite(name, place)
    cases = [
        {
            "suite": name,
            "seed": seed,
            "tasks": list(tasks),
            "density": density,
            "items": items,
            "kind": kind,
        }
        for seed in map(int, seeds.split(","))
        for tasks in task_sets(suite.tasks, sets)
        for kind in kinds.split(",")
        for density in map(float, densities.split(","))
    ]
    file = out or RESULTS / f"auto-lambda-{name}.json"
    found = measure_all(cases, measure, place, jobs, file)
    click.echo("\n".join(table(found, suite.higher_is_better)))


def task_sets(tasks: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """For each number of tasks from 2, up to ``most`` sets that share few."""
    found: list[tuple[str, ...]] = []
    for size in range(2, len(tasks) + 1):
        step = max(len(tasks) // most, 1)
        sets = []
        for start in range(0, len(tasks), step):
            turned = tasks[start:] + tasks[:start]
            chosen = tuple(task for task in tasks if task in turned[:size])
            if chosen not in sets:
                sets.append(chosen)
        found += sets[:most]
    return found


def measure(case: Case, place: Place) -> Found:
    """The score at each p, and the projections it was made with."""
    suite, base, models = models_of(case, place)
    tasks = case["tasks"]
    tau = task_vectors(base, models)
    scope, which = case["kind"].split()
    merged = merged_task_vector(tau, case["density"], scope=scope)
    found = projections(merged, tau)
    curve = []
    for p in P:
        # Where the merged task vector turns against the models', no lambda is right.
        scale = {
            tensor: p / (found.one if which == "one" or own <= 0 else own)
            for tensor, own in found.own.items()
        }
        state = added(base, merged, scale)
        curve.append(
            fmean(
                fmean(suite.scores(state, task, VALIDATION)[: case["items"]])
                for task in tasks
            )
        )
    own = sorted(found.own.values())
    return {
        "projection": found.one,
        "least, median and largest projection of a tensor": [
            own[0],
            own[len(own) // 2],
            own[-1],
        ],
        "p": list(P),
        "scores": [round(score, 4) for score in curve],
    }


def losses(found: Found, higher_is_better: bool) -> list[float]:
    """What each p loses against the best, in points or millibits."""
    sign, unit = (1, 1) if higher_is_better else (-1, 1000)
    values = [sign * unit * value for value in found["scores"]]
    return [max(values) - value for value in values]


def table(measured: Sequence[tuple[Case, Found]], higher_is_better: bool) -> list[str]:
    """Mean losses by kind, number of models and density, and of all together."""
    unit = "points" if higher_is_better else "millibits"
    lines = [
        f"Loss against the best lambda of the same merge, in {unit} (validation items)",
        "",
        "| ranked, lambda | models | density | cases | best p |"
        + "".join(f" {p:g} |" for p in P),
        "| --- " * (5 + len(P)) + "|",
    ]

    def add(label: Sequence[str], some: Sequence[tuple[Case, Found]]) -> None:
        lost = [losses(found, higher_is_better) for _, found in some]
        best = fmean(P[of.index(0)] for of in lost)
        means = [fmean(column) for column in zip(*lost, strict=True)]
        cells = [*label, str(len(some)), f"{best:.2f}", *(f"{m:.1f}" for m in means)]
        lines.append("| " + " | ".join(cells) + " |")

    for kind, ours in _grouped(measured, lambda case: case["kind"]):
        for size, some in _grouped(ours, lambda case: len(case["tasks"])):
            for density, few in _grouped(some, lambda case: case["density"]):
                add([kind, str(size), f"{density:g}"], few)
            add([kind, str(size), "all"], some)
        for density, some in _grouped(ours, lambda case: case["density"]):
            add([kind, "all", f"{density:g}"], some)
        add([kind, "all", "all"], ours)
    return lines


def _grouped(
    measured: Iterable[tuple[Case, Found]], key: Callable[[Case], Any]
) -> list[tuple[Any, list[tuple[Case, Found]]]]:
    groups: dict[Any, list[tuple[Case, Found]]] = {}
    for case, found in measured:
        groups.setdefault(key(case), []).append((case, found))
    return sorted(groups.items())


if __name__ == "__main__":
    main()
