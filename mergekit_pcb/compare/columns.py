"""The columns of a comparison, declared once for every place that shows them.

To add a column, add it to `summary_columns`: terminal, Markdown, page, CSV and JSON
then have it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from mergekit_pcb.compare.scoreboard import EXPERT, MERGE, Row, Scoreboard
from mergekit_pcb.output.table import Cell

MEAN, SHARE = "mean", "percent of own expert"
"""Keys of the columns that sum a row up."""

NOTHING = "–"
WINNER = "★"
# Times the median: what is larger does not decide how many decimals are shown.
_FAR = 1000
# Numbers from here on are written with an exponent.
_LONG = 1e7
_ARROWS = {True: " ↑", False: " ↓", None: ""}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in CSV; in JSON, with underscores for spaces.
        value: of a row: a number, a word, or None.
        error: the standard error of the value, if the column has errors.
        title: in Markdown and on the page; empty for a column of CSV and JSON only.
        short: the title on a terminal, where it may have several lines.
        text: a value, or an error, as it is shown.
        higher_is_better: whether the best merge is the highest; None if none is best.
        priority: the highest stand first; where the terminal is narrow, the lowest are
            left out, or go to another table.
    """

    key: str
    value: Callable[[Row], float | str | None]
    error: Callable[[Row], float | None] | None = None
    title: str = ""
    short: str = ""
    text: Callable[[Any], str] = str
    higher_is_better: bool | None = None
    priority: int = 9


def task_column(scoreboard: Scoreboard, task: str) -> Column:
    """The scores on a task."""
    scores = [row.scores[task] for row in scoreboard.rows if task in row.scores]
    metric, higher = scores[0].metric, scoreboard.higher_is_better(task)
    title = task if metric == task or higher is None else f"{task}, {metric}"
    return Column(
        task,
        lambda row: row.scores[task].value if task in row.scores else None,
        lambda row: row.scores[task].error if task in row.scores else None,
        title + _ARROWS[higher],
        task + _ARROWS[higher],
        _decimals(digits([s.value for s in scores], [s.error for s in scores])),
        higher,
        priority=3,
    )


def summary_columns(scoreboard: Scoreboard) -> list[Column]:
    """All columns but those of the tasks: the mean, its share, and others."""
    means = mean_digits(scoreboard)
    # A table of one task does not repeat it.
    mean = "mean" if len(scoreboard.tasks) > 1 else ""
    return [
        Column(
            MEAN,
            scoreboard.mean,
            scoreboard.mean_error,
            mean,
            mean,
            _decimals(means),
            scoreboard.direction,
        ),
        Column(
            SHARE,
            scoreboard.mean_normalised,
            title="% of own expert",
            short="% own",
            text="{:.1f}".format,
            higher_is_better=True,
            priority=5,
        ),
        Column(
            "difference to the best peer",
            lambda row: getattr(scoreboard.difference(row), "value", None),
            lambda row: getattr(scoreboard.difference(row), "error", None),
            "to the best peer",
            "to peer",
            _decimals(means, sign="+"),
            priority=8,
        ),
        Column(
            "best peer", lambda row: getattr(scoreboard.best_peer(row), "name", None)
        ),
        Column(
            "seconds",
            attrgetter("seconds"),
            title="seconds",
            short="s",
            text=lambda seconds: f"{seconds:.{int(seconds < 10)}f}",
            priority=2,
        ),
        Column(
            "peak bytes",
            attrgetter("peak_bytes"),
            title="GB",
            short="GB",
            text=lambda size: f"{size / 1e9:.1f}",
            priority=1,
        ),
    ]


def columns(scoreboard: Scoreboard) -> list[Column]:
    """Every column after the name and the settings of a row."""
    tasks = [task_column(scoreboard, task) for task in scoreboard.tasks]
    return tasks + summary_columns(scoreboard)


def shown_columns(scoreboard: Scoreboard) -> list[Column]:
    """The columns that people are shown, those of the highest priority first.

    They have a title, and a value somewhere.
    """
    shown = [
        column
        for column in columns(scoreboard)
        if column.title and any(column.value(r) is not None for r in scoreboard.rows)
    ]
    return sorted(shown, key=lambda column: -column.priority)


def cells(column: Column, rows: Sequence[Row]) -> list[Cell]:
    """A column as it is shown, one cell for each row."""
    values = [column.value(row) for row in rows]
    errors = [column.error(row) if column.error else None for row in rows]
    merges: list[Any] = [
        value
        for row, value in zip(rows, values, strict=True)
        if row.kind == MERGE and value is not None
    ]
    best = None
    if merges and column.higher_is_better is not None:
        best = max(merges) if column.higher_is_better else min(merges)
    return [
        Cell(
            NOTHING if value is None else column.text(value),
            "" if error is None else f"± {column.text(error).lstrip('+')}",
            best is not None and row.kind == MERGE and value == best,
        )
        for row, value, error in zip(rows, values, errors, strict=True)
    ]


def folded(name: str, width: int = 14) -> str:
    r"""A name in lines of so many characters, which end between its parts.

    Example:
        >>> folded("mmlu_high_school_macroeconomics ↑")
        'mmlu_high_\nschool_\nmacroeconomics\n↑'
        >>> folded("incomprehensibilities")
        'incomprehensib\nilities'
    """
    lines = [""]
    for part in re.findall(r"[^-_/ ,]*[-_/ ,]*", name):
        if len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def row_names(scoreboard: Scoreboard) -> list[str]:
    """What the rows are called, the best merge with a mark."""
    best = scoreboard.best(scoreboard.merges)
    return [row_name(row) + f" {WINNER}" * (row is best) for row in scoreboard.rows]


def row_name(row: Row) -> str:
    """What a row is called."""
    return f"expert {row.name}" if row.kind == EXPERT else row.name


def row_settings(row: Row) -> str:
    """The settings of a row in words, or why it has no scores.

    Example:
        >>> tried = [Tried("weight 1, lambda 1", {"lambda": 1.0})] * 3
        >>> row_settings(Row("merge", "ties", label="weight 1, lambda 1", tried=tried))
        'best of 3: lambda 1; weight 1'
    """
    words = row.label
    if len(row.tried) > 1 and row.failed:
        words = f"{len(row.tried)} tries"
    elif len(row.tried) > 1:
        parts = row.label.split(", ")
        swept = [part for part in parts if part.split()[0] in row.tried[0].swept]
        fixed = [part for part in parts if part not in swept]
        failed = sum(bool(tried.failed) for tried in row.tried)
        words = f"best of {len(row.tried)}"
        words += f", {failed} failed" if failed else ""
        words += f": {', '.join(swept)}"
        words += f"; {', '.join(fixed)}" if fixed else ""
    return "; ".join(filter(None, [words, row.failed and f"failed: {row.failed}"]))


def digits(values: Iterable[float | None], errors: Iterable[float | None] = ()) -> int:
    """Decimals such that the numbers are readable, and can be told apart.

    No more than two of them are smaller than the smallest standard error.

    Example:
        >>> digits([1.9, 1.614, 1.6143]), digits([61.5, 70.0]), digits([1234.0])
        (4, 1, 0)
        >>> digits([0.0123, 0.0135])
        4
        >>> digits([1.9, 1.614, 1.6143], [0.11, 0.09])
        3
    """
    known = sorted({abs(value) for value in values if value is not None})
    if not known:
        return 3
    # A merge that went wrong must not hide how the others differ.
    known = [
        value for value in known if value <= _FAR * known[len(known) // 2]
    ] or known
    usual = 3 if known[-1] < 10 else 1 if known[-1] < 1000 else 0
    if 0 < known[-1] < 0.1:
        usual = 2 - math.floor(math.log10(known[-1]))
    gaps = [b - a for a, b in itertools.pairwise(known) if b - a > 1e-9]
    needed = math.ceil(-math.log10(min(gaps))) if gaps else 0
    wanted = max(usual, min(needed, usual + 1))
    sure = [error for error in errors if error]
    return (
        min(wanted, max(0, math.ceil(-math.log10(min(sure))) + 1)) if sure else wanted
    )


def mean_digits(scoreboard: Scoreboard) -> int:
    """Decimals for means and their differences, or for percentages without means."""
    means = [scoreboard.mean(row) for row in scoreboard.rows]
    if means.count(None) == len(means):
        return 1
    # Errors of paired differences are smaller than those of the means.
    gaps = map(scoreboard.difference, scoreboard.rows)
    return digits(means, [gap.error for gap in gaps if gap is not None])


def _decimals(count: int, sign: str = "") -> Callable[[float], str]:
    def text(value: float) -> str:
        form = f".{count}f" if abs(value) < _LONG else ".3g"
        return f"{value:{sign}{form}}"

    return text
