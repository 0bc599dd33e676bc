"""The result of a search on a terminal; its first line is the answer."""

from __future__ import annotations

import shlex

from rich.console import Console

from mergekit_pcb.compare.evaluation import ALL
from mergekit_pcb.compare.terminal import terminal_tables
from mergekit_pcb.printable import printable
from mergekit_pcb.search.files import BEST, PAGE
from mergekit_pcb.search.others import OtherMerge
from mergekit_pcb.search.report import Report, answer, notes


def show(report: Report, *, quiet: bool) -> None:
    """Print the answer; if not quiet, also tables, notes and where the files are."""
    screen = Console(highlight=False, markup=False, soft_wrap=True)
    screen.print(printable(answer(report)))
    if quiet:
        return
    shown = [("Best of each setting:", report.scoreboard)]
    if report.outcome.part != ALL:
        shown.append(("On items that did not choose:", report.shown))
    for heading, scoreboard in shown:
        screen.print(f"\n{heading}")
        for table in terminal_tables(scoreboard, screen.width)[0]:
            screen.print(table)
    for note in notes(report):
        screen.print(printable(note), style="dim")
    screen.print(f"Report: {report.folder / PAGE}, and as .md and .json")
    best = shlex.quote(str(report.folder / BEST))
    screen.print(
        f"Merge it: {printable(f'mergekit-yaml {best} merged/{_seed(report)}')}"
    )


def _seed(report: Report) -> str:
    """What a merge by a method that draws at random needs besides the recipe."""
    other = isinstance(report.outcome.best.candidate, OtherMerge)
    return f" --random-seed {report.random_seed}" * other
