"""Tables of comparisons: a row a method, a column a suite or a number of models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from experiments.cases import load
from experiments.summary import Line, best_peer, groups, summarise
from mergekit_pcb.compare.scoreboard import MERGE

SUITES = ("text", "vision1", "vision2", "language")
GROUP = "3 models"

# Of a comparison by name, in order.
Lines = dict[str, Line]


def table(files: Iterable[Path], *, tuned: bool) -> Iterator[str]:
    """Three models: means and standard errors over seeds, the best merge bold.

    Args:
        files: of results; suites without such a comparison have no column.
        tuned: which half of it.
    """
    by_name = {file.name: file for file in files}
    columns = {}
    for suite in SUITES:
        if file := by_name.get(f"{suite}-cross-task.json"):
            lines = _comparisons(file, suite, tuned=tuned).get(GROUP)
            columns |= {suite: lines} if lines else {}
    if columns:
        yield from _table(columns, {suite: _digits(suite) for suite in columns})


def by_size(file: Path, suite: str) -> Iterator[str]:
    """Nobody tuned: a column for each number of models."""
    columns = _comparisons(file, suite, tuned=False)
    return _table(columns, dict.fromkeys(columns, _digits(suite)))


def _comparisons(file: Path, suite: str, *, tuned: bool) -> dict[str, Lines]:
    found = {}
    for name, group in groups(load(file), tuned=tuned).items():
        lines = summarise(group, higher_is_better=not suite.startswith("language"))
        found[name] = {line.name: line for line in lines}
    return found


def _digits(suite: str) -> int:
    return 4 if suite.startswith("language") else 2


def _table(columns: Mapping[str, Lines], digits: Mapping[str, int]) -> Iterator[str]:
    names = dict.fromkeys(name for lines in columns.values() for name in lines)
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- " + "| ---: " * len(columns) + "|"
    for name in names:
        cells = [_cell(each, name, digits[key]) for key, each in columns.items()]
        yield f"| {name} | " + " | ".join(cells) + " |"
    gaps = [_gap(lines, digits[key]) for key, lines in columns.items()]
    yield "| pcb minus the best other method | " + " | ".join(gaps) + " |"


def _cell(lines: Lines, name: str, digits: int) -> str:
    if name not in lines:
        return "failed"
    line = lines[name]
    best = next(each for each in lines.values() if each.kind == MERGE)
    text = f"{line.mean:.{digits}f}"
    text = f"**{text}**" if line is best else text
    return f"{text}{_error(line.error, digits)}"


def _gap(lines: Lines, digits: int) -> str:
    peer = best_peer(list(lines.values()))
    if peer is None or peer.gap is None:
        return ""
    error = _error(peer.gap_error, digits)
    return f"{-peer.gap:+.{digits}f}{error} ({peer.name})"


def _error(error: float | None, digits: int) -> str:
    """Nothing where there is one seed."""
    return "" if error is None else f" ± {error:.{digits}f}"
