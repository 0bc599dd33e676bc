"""One table of all suites: three models, a row a method, a column a suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments.cases import load
from experiments.summary import Line, best_peer, groups, summarise
from mergekit_pcb.compare.scoreboard import MERGE

SUITES = ("text", "vision1", "vision2", "language")
GROUP = "3 models"


def table(folder: Path, *, tuned: bool) -> Iterator[str]:
    """A Markdown table: means and standard errors over seeds, the best merge bold."""
    columns = {suite: _column(folder, suite, tuned=tuned) for suite in SUITES}
    names = dict.fromkeys(name for lines in columns.values() for name in lines)
    yield "| | " + " | ".join(SUITES) + " |"
    yield "| --- " + "| ---: " * len(SUITES) + "|"
    for name in names:
        cells = [
            _cell(lines, name, 4 if suite.startswith("language") else 2)
            for suite, lines in columns.items()
        ]
        yield f"| {name} | " + " | ".join(cells) + " |"
    gaps = []
    for suite, lines in columns.items():
        digits = 4 if suite.startswith("language") else 2
        peer = best_peer(list(lines.values()))
        known = peer is not None and peer.gap is not None
        gaps.append(
            f"{-peer.gap:+.{digits}f} ± {peer.gap_error or 0:.{digits}f} ({peer.name})"
            if known and peer is not None and peer.gap is not None
            else ""
        )
    yield "| pcb less the best of other methods | " + " | ".join(gaps) + " |"


def _column(folder: Path, suite: str, *, tuned: bool) -> dict[str, Line]:
    measured = load(folder / f"{suite}-cross-task.json")
    group = groups(measured, tuned=tuned).get(GROUP, [])
    if not group:
        return {}
    lines = summarise(group, higher_is_better=not suite.startswith("language"))
    return {line.name: line for line in lines}


def _cell(lines: dict[str, Line], name: str, digits: int) -> str:
    if name not in lines:
        return "failed" if lines else ""
    line = lines[name]
    best = next(each for each in lines.values() if each.kind == MERGE)
    text = f"{line.mean:.{digits}f}"
    text = f"**{text}**" if line is best else text
    return f"{text} ± {line.error or 0:.{digits}f}"
