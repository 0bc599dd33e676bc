"""The tables of a search."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mergekit_pcb.compare.candidates import in_word
from mergekit_pcb.compare.columns import digits
from mergekit_pcb.compare.evaluation import ALL
from mergekit_pcb.compare.files import scores_table
from mergekit_pcb.output.table import Cell, Table
from mergekit_pcb.plugin.parameters import DEFAULT_WEIGHT
from mergekit_pcb.recipes import edits
from mergekit_pcb.search.others import OtherMerge
from mergekit_pcb.search.outcome import AnyCandidate, Tried, differences, number
from mergekit_pcb.search.report import Report, method_of
from mergekit_pcb.search.scores import Gap, Scored, gap, mean, mean_error
from mergekit_pcb.search.space import Candidate, recipe_of
from mergekit_pcb.search.weights import population

_NOTHING = "–"
_LEVEL = "level with it at equal weights, within 2 standard errors"


def tables(report: Report) -> list[tuple[str, Table]]:
    """All tables but that of every candidate, each with a heading."""
    where = "on the items that chose"
    if report.outcome.part != ALL:
        where = "on items that did not choose"
    return [
        (f"Start, equal weights and found, {where}", shown_table(report)),
        ("What was found", found_table(report)),
        ("Best of each setting", scores_table(report.scoreboard)),
        ("How sure the choice is", differences_table(report)),
    ]


def shown_table(report: Report) -> Table:
    """The start, the best with equal weights, and the best, on the items shown."""
    outcome = report.outcome
    names: dict[Any, list[str]] = {}
    for name, tried in (
        ("start", outcome.tried[0]),
        ("equal weights", outcome.equal),
        ("found", outcome.best),
    ):
        names.setdefault(tried.candidate, []).append(name)
    found = outcome.shown[outcome.best.candidate]
    lines = []
    for candidate, called in names.items():
        scored = outcome.shown[candidate]
        cells = [Cell(scored.failed or _NOTHING), Cell("")]
        if not scored.failed:
            cells = [_score(scored), _worse(scored, found)]
        lines.append([" = ".join(called), str(candidate), *cells])
    headings = ["", "candidate", "score", "worse than what was found by"]
    return Table("", headings, lines, words=1)


def _score(scored: Scored) -> Cell:
    value, error = mean(scored.scores), mean_error(scored.scores)
    decimals = digits([value], [error])
    return Cell(
        f"{value:.{decimals}f}", "" if error is None else f"± {error:.{decimals}f}"
    )


def _worse(scored: Scored, found: Scored) -> Cell:
    if scored is found or found.failed:
        return Cell(_NOTHING)
    return _difference(gap(scored.scores, found.scores))


def _difference(difference: Gap) -> Cell:
    value, error = difference
    return Cell(f"{value:+.3g}", "" if error is None else f"± {error:.2g}")


def found_table(report: Report) -> Table:
    """Every setting that was found, and what else would have done as well."""
    best = report.outcome.best.candidate
    if isinstance(best, OtherMerge):
        methods = _words(method_of(c) for c in _level_with_best(report))
        lines = [["method", best.method, methods], ["settings", best.label, _NOTHING]]
        return Table("", ["", "found", _LEVEL], lines, words=2)
    level = _level_with_best(report)
    lines = [["method", method_of(best), _words(method_of(c) for c in level)]]
    own = [c for c in level if method_of(c) == method_of(best)]
    for name, value in _values(report, best):
        lines.append([name, value, _range(_values(report, c, name) for c in own)])
    lines += _weights(report, best)
    headings = ["", "found", _LEVEL]
    return Table("", headings, lines, words=2)


def _level_with_best(report: Report) -> list[AnyCandidate]:
    """Candidates that are not surely worse than the best, all with equal weights."""
    outcome = report.outcome
    best, equal = outcome.best.candidate, outcome.equal
    if isinstance(best, Candidate) and best.factors:
        same = Candidate(best.setting, best.scale)
        equal = next((t for t in outcome.tried if t.candidate == same), equal)
    found = []
    for tried in outcome.tried:
        if tried.scored.failed or tried.candidate.factors:
            continue
        value, error = gap(tried.scored.scores, equal.scored.scores)
        if error is not None and value <= 2 * error:
            found.append(tried.candidate)
    return found


def _values(
    report: Report, candidate: AnyCandidate, only: str = ""
) -> list[tuple[str, str]]:
    """Density, scope and lambda of a candidate, in words."""
    if isinstance(candidate, OtherMerge):
        return []
    recipe = recipe_of(report.start, candidate)
    found = []
    for name in ("density", "scope", "lambda"):
        values = edits.values_of(recipe, name)
        if values and values[0] is not None and only in ("", name):
            found.append((name, "/".join(dict.fromkeys(map(in_word, values)))))
    return found


def _range(values: Iterable[list[tuple[str, str]]]) -> str:
    words = dict.fromkeys(value for pairs in values for _, value in pairs)
    try:
        numbers = sorted(map(float, words))
    except ValueError:
        return _words(words)
    if len(numbers) > 4:
        return f"{numbers[0]:g} to {numbers[-1]:g}"
    return ", ".join(f"{number:g}" for number in numbers) or _NOTHING


def _words(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words)) or _NOTHING


def _weights(report: Report, best: Candidate) -> Iterator[list[str]]:
    """The weight of each model, with its spread where weights were tuned."""
    values = edits.values_of(recipe_of(report.start, best), "weight", DEFAULT_WEIGHT)
    if len(values) != len(report.models):  # a recipe in slices has more
        return
    spread = spread_of_weights(report)
    for place, (name, value) in enumerate(zip(report.models, values, strict=True)):
        told = _NOTHING
        if spread:
            count = len(spread) // len(report.models)
            own = spread[place * count : (place + 1) * count]
            factors = ", ".join(f"{mean:.3g} ± {error:.2g}" for mean, error in own)
            told = f"factor {factors} at the end of the strategy"
        yield [f"weight of {name}", _weight_in_words(value, best), told]


def _weight_in_words(value: Any, best: Candidate) -> str:
    """A weight; those of groups of tensors by the names of the groups."""
    if not isinstance(value, list) or best.groups is None:
        return in_word(value) if isinstance(value, (int, float)) else "by layer"
    numbers = [each["value"] if isinstance(each, dict) else each for each in value]
    named = zip(best.groups.names, numbers, strict=True)
    return ", ".join(f"{name} {in_word(number)}" for name, number in named)


def spread_of_weights(report: Report) -> list[tuple[float, float]]:
    """Mean and standard deviation of each factor over the strategy's last generation.

    Empty if no weights were tuned.
    """
    rows = [t.candidate.factors for t in report.outcome.tried if t.candidate.factors]
    if not rows:
        return []
    last = rows[-population(len(rows[0])) :]
    return [
        (statistics.fmean(column), statistics.stdev(column))
        for column in zip(*last, strict=True)
    ]


def differences_table(report: Report) -> Table:
    """The best candidate of each setting beside the best of all."""
    lines = []
    for tried, difference in differences(report.outcome):
        best = tried.candidate == report.outcome.best.candidate
        worse = Cell(_NOTHING) if best else _difference(difference)
        lines.append([str(tried.candidate), Cell(number(tried), best=best), worse])
    return Table("", ["candidate", "score", "worse than the best by"], lines)


def tried_table(tried: Sequence[Tried]) -> Table:
    """Every candidate, in the order of the search."""
    lines = [[str(t.candidate), t.scored.failed or number(t)] for t in tried]
    return Table("", ["candidate", "score"], lines)
