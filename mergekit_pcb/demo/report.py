"""The demo's words: what it is about, the table, and what to read from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import mean
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from mergekit_pcb.demo.tasks import DOMAINS, Item

MERGES = ("untuned", "tuned")
_EXAMPLE = "merge"


class Row(NamedTuple):
    """One model's line.

    Attributes:
        kind: ``base``, ``specialist``, ``untuned`` or ``tuned``.
        name: ``base``, ``specialist`` or the merge method.
        settings: the specialist's domain, or the merge's settings in words.
        scores: accuracy in percent by domain.
    """

    kind: str
    name: str
    settings: str
    scores: dict[str, float]

    @property
    def numbers(self) -> list[float]:
        """The cells as printed: accuracy by domain, then the mean over domains."""
        scores = [self.scores[domain] for domain in DOMAINS]
        return [round(score, 1) for score in (*scores, mean(scores))]


def introduction() -> str:
    """Return what the three languages are, by example."""
    lines = ["Three made-up languages; a model reads up to the = and writes the rest:"]
    for domain in DOMAINS:
        item = Item(domain, _EXAMPLE)
        lines.append(f"  {domain:8} {item.prompt}{item.answer}")
    return "\n".join(lines) + "\n"


def results_table(rows: Sequence[Row]) -> Table:
    """Return the table, with the best merges of every block bold and starred."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model")
    table.add_column("")
    for heading in (*DOMAINS, "mean"):
        table.add_column(f"{heading} ", justify="right")
    for kind, group in groupby(rows, key=lambda row: row.kind):
        block = list(group)
        best = [max(column) for column in zip(*(r.numbers for r in block), strict=True)]
        if kind in MERGES:
            table.add_section()
            table.add_row(f"merges, {kind}")
        for row in block:
            cells = [
                _cell(number, starred=kind in MERGES and number == top)
                for number, top in zip(row.numbers, best, strict=True)
            ]
            table.add_row(row.name, row.settings, *cells)
    return table


def _cell(number: float, *, starred: bool) -> Text:
    # The star is for those who read the table in a file, where nothing is bold.
    if starred:
        return Text(f"{number:.1f}*", style="bold")
    return Text(f"{number:.1f} ")


def notes(rows: Sequence[Row], test_items: int, validation_items: int) -> str:
    """Return what to read from the table, whichever method wins."""
    base = next(row for row in rows if row.kind == "base")
    own = [row.scores[row.settings] for row in rows if row.kind == "specialist"]
    winners = []
    for kind in MERGES:
        block = [row for row in rows if row.kind == kind]
        best = max(block, key=lambda row: row.numbers[-1])
        winners.append(f"{best.name} {best.numbers[-1]:.1f} {kind}")
    return (
        f"Best means: {', '.join(winners)}. The base has {base.numbers[-1]:.1f}; the "
        f"specialists, each in its own language, {mean(own):.1f}.\n\n"
        f"Percent of {test_items} held-out words answered without a mistake; * is best "
        "of its block. Untuned: published or customary settings. Tuned: the best of "
        f"nine settings per method on {validation_items} other words per language; "
        "linear has nothing to tune. One seed and toy models: a few points mean "
        "nothing, and nothing follows for other models."
    )
