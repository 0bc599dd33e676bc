"""How well a sample of coordinates tells the projection, and with it lambda.

    python -m experiments.sampled_projection text --work FOLDER

For every tensor of the suite's fine-tunes of one seed: the relative error of lambda
when the projection is summed over random coordinates instead of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from experiments.cases import Case, Found, measure_all, models_of
from experiments.in_memory import merged_task_vector, task_vectors
from experiments.suites.registry import SUITES, open_suite
from experiments.suites.suite import Place

RESULTS = Path(__file__).parent / "results"
SIZES = ("4096", "16384", "32768", "d^(2/3)")
DRAWS = 10


@click.command()
@click.argument("name", metavar="SUITE", type=click.Choice(list(SUITES)))
@click.option("--seed", default=0, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--models", default="2,3,6", show_default=True)
def main(name: str, seed: int, work: Path, models: str) -> None:
    """Print errors of lambda by the size of the sample."""
    place = Place(work.absolute())
    tasks = open_suite(name, place).tasks
    cases = [
        {"suite": name, "seed": seed, "tasks": list(tasks[:size]), "density": density}
        for size in map(int, models.split(","))
        if size <= len(tasks)
        for density in (0.05, 0.2)
    ]
    file = RESULTS / f"sampled-projection-{name}.json"
    click.echo("\n".join(table(measure_all(cases, measure, place, 1, file))))


def measure(case: Case, place: Place) -> Found:
    """Errors of all tensors that are larger than the sample, for each size of it."""
    _, base, models = models_of(case, place)
    tau = task_vectors(base, models)
    merged = merged_task_vector(tau, case["density"])
    generator = torch.Generator().manual_seed(0)
    errors: dict[str, list[tuple[float, str]]] = {size: [] for size in SIZES}
    for name, vectors in tau.items():
        stacked = torch.stack([vector.flatten() for vector in vectors])
        if not stacked.any():
            continue
        for size, of_size in errors.items():
            some = _errors(merged[name].flatten(), stacked, size, generator)
            of_size += ((error, name) for error in some)
    return {size: _summary(sorted(some)) for size, some in errors.items() if some}


def _summary(errors: Sequence[tuple[float, str]]) -> dict[str, Any]:
    values = [error for error, _ in errors]
    return {
        "tensors and draws": len(values),
        "median": median(values),
        "95 %": values[int(0.95 * len(values))],
        "worst": values[-1],
        "worst tensor": errors[-1][1],
        "worst of other tensors": max(
            (error for error, name in errors if name != errors[-1][1]), default=None
        ),
    }


def _errors(
    merged: torch.Tensor, tau: torch.Tensor, size: str, generator: torch.Generator
) -> Iterator[float]:
    d = len(merged)
    m = round(d ** (2 / 3)) if size == "d^(2/3)" else int(size)
    if m >= d:
        return
    exact = _projection(merged, tau)
    for _ in range(DRAWS):
        where = torch.randint(d, (m,), generator=generator)
        # lambda is inversely proportional to the projection.
        sampled = _projection(merged[where], tau[:, where])
        yield abs(exact / sampled - 1) if sampled else math.inf


def _projection(merged: torch.Tensor, tau: torch.Tensor) -> float:
    tau = tau.double()
    squares = tau.square().sum(1)
    kept = (tau @ merged.double()) / squares
    return kept[squares > 0].mean().item()


def table(measured: Sequence[tuple[Case, Found]]) -> list[str]:
    """A line for each case and size."""
    titles = ["models", "density", "sample", "tensors x draws", *_QUANTILES, "tensor"]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for case, found in measured:
        for size, errors in found.items():
            numbers = (f"{100 * errors[key]:.2f} %" for key in _QUANTILES)
            cells = [
                str(len(case["tasks"])),
                f"{case['density']:g}",
                size,
                str(errors["tensors and draws"]),
                *numbers,
                errors["worst tensor"],
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


_QUANTILES = ("median", "95 %", "worst", "worst of other tensors")


if __name__ == "__main__":
    main()
