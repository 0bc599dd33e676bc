"""Make the fine-tunes of suites, and score each on its task before and after.

    python -m experiments.fine_tune text vision1 --seeds 0,1,2 --work FOLDER

What is finished is not made again. All tasks of a seed come before the next seed, so
that an interrupted run leaves whole sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import click
import torch

from experiments.cases import Case, Found, measure_all, opened
from experiments.suites.registry import SUITES, open_suite
from experiments.suites.suite import Place, fine_tuned
from mergekit_pcb.compare.evaluation import TEST, standard_error

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("suites", nargs=-1, type=click.Choice(list(SUITES)), required=True)
@click.option("--seeds", default="0,1,2", show_default=True, help="Comma-separated.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--jobs", default=1, show_default=True, help="Processes at a time.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder of the JSON files.  [default: experiments/results]",
)
def main(
    suites: tuple[str, ...],
    seeds: str,
    work: Path,
    device: str,
    jobs: int,
    results: Path,
) -> None:
    """Fine-tune the base of each suite on each of its tasks."""
    torch.set_num_threads(1)
    place = Place(work.absolute(), device)
    for name in suites:
        suite = open_suite(name, place)
        suite.prepare()
        cases = [
            {"suite": name, "seed": int(seed), "task": task}
            for seed in seeds.split(",")
            for task in suite.tasks
        ]
        file = results / f"{name}-experts.json"
        for case, found in measure_all(cases, measure, place, jobs, file):
            click.echo(
                f"{name} seed {case['seed']} {case['task']}: {suite.metric} "
                f"{found['base']:.3f} to {found['tuned']:.3f}"
            )


def measure(case: Case, place: Place) -> Found:
    """Mean scores on the test items of the task."""
    suite = opened(case["suite"], place)
    folder = fine_tuned(suite, place, case["task"], case["seed"])
    before, after = (
        fmean(suite.scores(suite.state(model), case["task"], TEST))
        for model in (suite.prepare(), folder)
    )
    return {"base": before, "tuned": after}


def table(measured: Sequence[tuple[Case, Found]]) -> Iterator[str]:
    """A line for each task, means over seeds."""
    yield "| task | seeds | base | fine-tuned | ± over seeds |"
    yield "| --- | --- | --- | --- | --- |"
    for task in dict.fromkeys(case["task"] for case, _ in measured):
        some = [found for case, found in measured if case["task"] == task]
        tuned = [found["tuned"] for found in some]
        error = standard_error(tuned)
        cells = [
            task,
            str(len(some)),
            f"{some[0]['base']:.3f}",
            f"{fmean(tuned):.3f}",
            "" if error is None else f"{error:.3f}",
        ]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
