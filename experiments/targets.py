"""Which rule for p, the projection that `lambda: auto` aims at, loses least?

    python -m experiments.targets

Compares rules on the curves that `experiments.auto_lambda` has measured: one number for
all merges, numbers that fall with the square root of the number of models, and with the
number itself. Losses are against the best lambda of the same merge, in points of
accuracy, or five millibits a byte; means over the sizes of a suite, each the mean of
its sets of tasks, seeds and densities from .1 to .4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean

import click
import numpy as np

from experiments.auto_lambda import RESULTS, losses
from experiments.cases import load

SUITES = ("text", "vision1", "vision2", "language")
RULES: Mapping[str, Callable[[int], float]] = {
    **{f"{p:g}": lambda n, p=p: p for p in (0.6, 0.65, 0.7, 0.75)},
    **{
        f"{p:g} sqrt(3 / n)": lambda n, p=p: p * math.sqrt(3 / n)
        for p in (0.6, 0.65, 0.7, 0.75)
    },
    **{f"{p:g} 3 / n": lambda n, p=p: p * 3 / n for p in (0.6, 0.65, 0.7, 0.75)},
}


@click.command()
def main() -> None:
    """Print what rules for p lose, by suite and number of models."""
    click.echo("\n".join(table(RESULTS)))


def table(folder: Path) -> Iterator[str]:
    """A Markdown table with a line a rule and a column a suite."""
    curves = {suite: _curves(folder, suite) for suite in SUITES}
    yield "| p for n models | " + " | ".join(SUITES) + " | mean |"
    yield "| --- " * (len(SUITES) + 2) + "|"
    for name, rule in RULES.items():
        cells, means = [], []
        for of_suite in curves.values():
            by_size = {
                n: fmean(float(np.interp(rule(n), p, lost)) for p, lost in some)
                for n, some in of_suite.items()
            }
            means.append(fmean(by_size.values()))
            sizes = ", ".join(f"{n}: {lost:.1f}" for n, lost in by_size.items())
            cells.append(f"{means[-1]:.2f} ({sizes})")
        yield f"| {name} | " + " | ".join(cells) + f" | {fmean(means):.2f} |"


def _curves(
    folder: Path, suite: str
) -> dict[int, list[tuple[list[float], list[float]]]]:
    """For each number of models p, and what it loses."""
    higher = not suite.startswith("language")
    unit = 1 if higher else 1 / 5
    curves: dict[int, list[tuple[list[float], list[float]]]] = {}
    for case, found in load(folder / f"auto-lambda-{suite}.json"):
        # The kind of a cell was a task once; now it is one that nobody is trained on.
        if case["density"] >= 0.1 and "cells" not in case["tasks"]:
            lost = [unit * each for each in losses(found, higher)]
            curves.setdefault(len(case["tasks"]), []).append((found["p"], lost))
    return dict(sorted(curves.items()))


if __name__ == "__main__":
    main()
