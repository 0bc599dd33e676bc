"""The table of a comparison: its columns, and how they look in different places."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from mergekit_pcb.compare.scoreboard import BASE, EXPERT, MERGE, Row, Scoreboard

NOTHING = "–"
_NAME_WIDTH = 24
_WIDEST_NAME = 44
_TASK_WIDTH = 10
_GAP = 2


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: in full.
        short: for a terminal.
        cells: one a row.
        best: rows that are the best merges here.
        details: what may follow a cell where there is room.
        worth: columns of the least worth go first where there is no room.
    """

    title: str
    short: str
    cells: Sequence[str]
    best: frozenset[int] = frozenset()
    details: Sequence[str] = ()
    worth: int = 9


def columns(scoreboard: Scoreboard) -> list[Column]:
    """The columns after the first; those without a single number are left out."""
    found = [_task(scoreboard, task) for task in scoreboard.tasks]
    if len(scoreboard.tasks) > 1:
        found.append(_mean(scoreboard))
    found += [_share(scoreboard), _to_peer(scoreboard)]
    seconds = [row.seconds for row in scoreboard.rows]
    found.append(_column("seconds", "s", seconds, lambda s: f"{s:.0f}", worth=2))
    memory = [row.peak_bytes for row in scoreboard.rows]
    found.append(_column("GB", "GB", memory, lambda b: f"{b / 1e9:.1f}", worth=1))
    return [column for column in found if set(column.cells) != {NOTHING}]


def name(row: Row) -> str:
    """What a row is called."""
    return f"expert {row.name}" if row.kind == EXPERT else row.name


def settings(row: Row) -> str:
    """The settings of a row in words, or why it has no scores.

    Example:
        >>> tried = [Tried("weight 1, lambda 1", {"lambda": 1.0})] * 3
        >>> settings(Row("merge", "ties", label="weight 1, lambda 1", tried=tried))
        'best of 3: lambda 1; weight 1'
    """
    words = row.label
    if len(row.tried) > 1:
        parts = row.label.split(", ")
        swept = [part for part in parts if part.split()[0] in row.tried[0].swept]
        fixed = [part for part in parts if part not in swept]
        count = sum(not tried.failed for tried in row.tried)
        words = f"best of {count}: {', '.join(swept)}"
        words += f"; {', '.join(fixed)}" if fixed else ""
    return f"{words}; failed: {row.failed}" if row.failed else words


def _task(scoreboard: Scoreboard, task: str) -> Column:
    scores = [row.scores.get(task) for row in scoreboard.rows]
    values = [None if score is None else score.value for score in scores]
    decimals = digits(values)
    higher = scoreboard.higher_is_better(task)
    metric = next(score.metric for score in scores if score is not None)
    arrow = {True: " ↑", False: " ↓", None: ""}[higher]
    title = task if metric == task or higher is None else f"{task}, {metric}"
    errors = [
        "" if score is None or score.error is None else f"± {score.error:.{decimals}f}"
        for score in scores
    ]
    short = task if len(task) <= _TASK_WIDTH else f"{task[: _TASK_WIDTH - 1]}…"
    ranks = [
        None if v is None or higher is None else v if higher else -v for v in values
    ]
    return Column(
        title + arrow,
        short + arrow,
        [NOTHING if v is None else f"{v:.{decimals}f}" for v in values],
        _best(scoreboard.rows, ranks),
        errors,
        worth=3,
    )


def _mean(scoreboard: Scoreboard) -> Column:
    values = [scoreboard.mean(row) for row in scoreboard.rows]
    decimals = digits(values)
    errors = [scoreboard.mean_error(row) for row in scoreboard.rows]
    ranks = [v if scoreboard.direction or v is None else -v for v in values]
    return Column(
        "mean",
        "mean",
        [NOTHING if v is None else f"{v:.{decimals}f}" for v in values],
        _best(scoreboard.rows, ranks),
        ["" if e is None else f"± {e:.{decimals}f}" for e in errors],
    )


def _share(scoreboard: Scoreboard) -> Column:
    shares = [scoreboard.mean_normalised(row) for row in scoreboard.rows]
    cells = [NOTHING if share is None else f"{share:.1f}" for share in shares]
    return Column(
        "% of own expert", "% own", cells, _best(scoreboard.rows, shares), worth=5
    )


def _to_peer(scoreboard: Scoreboard) -> Column:
    means = [scoreboard.mean(row) for row in scoreboard.rows]
    decimals = digits(means) if any(mean is not None for mean in means) else 1
    cells, details = [], []
    for row in scoreboard.rows:
        peer = scoreboard.best_peer(row) if row.kind == MERGE else None
        gap = scoreboard.difference(row, peer) if peer and not row.failed else None
        cells.append(NOTHING if gap is None else f"{gap.value:+.{decimals}f}")
        known = gap is not None and gap.error is not None
        details.append(f"± {gap.error:.{decimals}f}" if gap and known else "")
    return Column("to the best peer", "to peer", cells, details=details, worth=8)


def _column(
    title: str,
    short: str,
    values: Sequence[float | None],
    text: Callable[[float], str],
    worth: int,
) -> Column:
    cells = [NOTHING if value is None else text(value) for value in values]
    return Column(title, short, cells, worth=worth)


def _best(rows: Sequence[Row], ranks: Sequence[float | None]) -> frozenset[int]:
    merges = {
        number: rank
        for number, (row, rank) in enumerate(zip(rows, ranks, strict=True))
        if row.kind == MERGE and rank is not None
    }
    top = max(merges.values(), default=None)
    return frozenset(number for number, rank in merges.items() if rank == top)


def digits(values: Iterable[float | None]) -> int:
    """Decimals such that the numbers are readable, and can be told apart.

    Example:
        >>> digits([1.9, 1.614, 1.6143]), digits([61.5, 70.0]), digits([1234.0])
        (4, 1, 0)
    """
    known = sorted({abs(value) for value in values if value is not None})
    if not known:
        return 3
    usual = 3 if known[-1] < 10 else 1 if known[-1] < 1000 else 0
    gaps = [b - a for a, b in itertools.pairwise(known) if b - a > 1e-9]
    needed = math.ceil(-math.log10(min(gaps))) if gaps else 0
    return max(usual, min(needed, usual + 1))


class Attempt(NamedTuple):
    """A line of the table of all that was tried: the score is on the items that choose.

    Attributes:
        name: of the merge.
        label: its settings in words.
        result: the score, or why there is none.
        chosen: whether it is the best of its name.
    """

    name: str
    label: str
    result: str
    chosen: bool


def attempts(rows: Sequence[Row], references: Sequence[Row]) -> list[Attempt]:
    """Every setting of the rows for which there were several.

    Args:
        rows: of the table.
        references: base and experts on the items that choose.
    """
    judge = Scoreboard(references)
    found = []
    for row in rows:
        for tried in row.tried if len(row.tried) > 1 else ():
            attempt = Row(MERGE, row.name, tried.scores)
            mean = judge.mean(attempt)
            height = judge.standing(attempt) if mean is None else mean
            result = tried.failed or ("" if height is None else f"{height:.4f}")
            found.append(Attempt(row.name, tried.label, result, tried.chosen))
    return found


def markdown_of_attempts(found: Sequence[Attempt]) -> str:
    """The same in Markdown; what was chosen is bold."""
    lines = [["merge", "settings", "on the items that choose"], ["---", "---", "---:"]]
    for name, label, result, chosen in found:
        lines.append([name, label, f"**{result}**" if chosen else result])
    return _joined(lines)


def markdown(scoreboard: Scoreboard) -> str:
    """The table in Markdown; the best merges are bold."""
    found = columns(scoreboard)
    lines = [["", "settings", *(column.title for column in found)]]
    lines.append(["---", "---", *["---:"] * len(found)])
    for number, row in enumerate(scoreboard.rows):
        cells = [_marked(column, number, "**") for column in found]
        lines.append([name(row), settings(row), *cells])
    return _joined(lines)


def _joined(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in lines
    )


def _marked(column: Column, number: int, mark: str) -> str:
    cell = column.cells[number]
    cell = f"{mark}{cell}{mark}" if number in column.best else cell
    detail = column.details[number] if column.details else ""
    return f"{cell} {detail}".rstrip()


def terminal(scoreboard: Scoreboard, width: int) -> tuple[Table, list[str]]:
    """The table in so many characters, and the titles of what did not fit."""
    found, left_out = _fitting(columns(scoreboard), width)
    room = width - sum(map(_width, found))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", overflow="fold")
    for column in found:
        table.add_column(column.short, justify="right", no_wrap=True)
    kind = BASE
    for number, row in enumerate(scoreboard.rows):
        if row.kind == MERGE and kind != MERGE:
            table.add_section()
        kind = row.kind
        title = Text(name(row))
        if settings(row):
            lines = _lines(settings(row), min(room - _GAP, _WIDEST_NAME))
            title.append("\n" + "\n".join(lines), style="dim")
        table.add_row(title, *(_starred(column, number) for column in found))
    return table, left_out


def _lines(words: str, width: int) -> list[str]:
    """Lines that end between one setting and the next, where they can."""
    lines = [""]
    for part in re.findall("[^,;:]+[,;:]?", words):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part if lines[-1] else part.lstrip()
    return [line.rstrip() for line in lines]


def _starred(column: Column, number: int) -> Text:
    # The star is for those who read the table in a file, where nothing is bold.
    text = Text(column.cells[number])
    if column.best:
        text.append("*" if number in column.best else " ")
    if number in column.best:
        text.stylize("bold")
    if _wide(column):
        text.append(f" {column.details[number]:{_detail_width(column)}}")
    return text


def _wide(column: Column) -> bool:
    # Standard errors of scores have no room here; that of the difference matters.
    return not column.best and any(column.details)


def _detail_width(column: Column) -> int:
    return max(map(len, column.details), default=0)


def _fitting(found: list[Column], width: int) -> tuple[list[Column], list[str]]:
    found = list(found)
    left_out: list[str] = []
    while len(found) > 1 and _NAME_WIDTH + sum(map(_width, found)) > width:
        least = min(found, key=lambda column: (column.worth, -found.index(column)))
        found.remove(least)
        left_out.insert(0, least.title)
    return found, left_out


def _width(column: Column) -> int:
    cells = max(map(len, column.cells)) + bool(column.best)
    if _wide(column):
        cells += 1 + _detail_width(column)
    return max(cells, len(column.short)) + _GAP
