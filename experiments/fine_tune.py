"""Make the fine-tunes of a suite; what is finished is not made again.

    python -m experiments.fine_tune text vision1 --seeds 0,1,2 --work FOLDER

Rows of a seed come before the next seed, so that an interrupted run leaves whole sets.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from experiments.suites.registry import SUITES, Place, open_suite
from experiments.suites.suite import fine_tuned


@click.command()
@click.argument("suites", nargs=-1, type=click.Choice(list(SUITES)), required=True)
@click.option("--seeds", default="0", show_default=True, help="Comma-separated.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--threads", default=1, show_default=True, help="Of torch.")
def main(
    suites: tuple[str, ...], seeds: str, work: Path, device: str, threads: int
) -> None:
    """Fine-tune the base of each suite on each of its tasks."""
    torch.set_num_threads(threads)
    place = Place(work.absolute(), device)
    for seed in map(int, seeds.split(",")):
        for name in suites:
            suite = open_suite(name, place)
            base = suite.state(suite.prepare())
            for task in suite.tasks:
                start = time.perf_counter()
                state = suite.state(fine_tuned(suite, place, task, seed))
                before, after = (
                    sum(values) / len(values)
                    for values in (
                        suite.scores(weights, task, "test") for weights in (base, state)
                    )
                )
                click.echo(
                    f"{name} seed {seed} {task}: {suite.metric} {before:.2f} to "
                    f"{after:.2f}, {time.perf_counter() - start:.0f} s"
                )


if __name__ == "__main__":
    main()
