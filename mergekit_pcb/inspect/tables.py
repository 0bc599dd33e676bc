"""The tables of an inspection, as words: the terminal and the page show the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mergekit_pcb.inspect.export import origin
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.kernel.metrics import Metrics

LEGEND = (
    "keeps: the model is one of those that make the merged value there. wins: of the "
    "weights that anybody keeps, those where its share of the value is the largest. "
    "merged / mean: norm of what the merge adds to the base, over the norm of the mean "
    "of the task vectors; near 0, the merge is the base model."
)

# Column headings for kinds of tensors.
_SHORT = {"embedding": "embed", "attention": "attn"}
_ALL = "all"
# Cosines of more models do not fit side by side.
_MATRIX = 8
# What a merge adds is not that much shorter than the mean, unless it went wrong.
_VANISHED = 0.01
_SAME = 0.999


class Line(NamedTuple):
    """A row: its label, indented by two spaces if it belongs to a row above."""

    label: str
    cells: Sequence[str] = ()


class Sheet(NamedTuple):
    """A table whose columns, after the first, are figures."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Line]


def heading(inspection: Inspection) -> str:
    """What was looked at."""
    models = _plural(len(inspection.models), "model")
    tensors = _plural(len(inspection.parts), "tensor")
    sentences = [
        (
            f"{Path(inspection.recipe).name}: {inspection.method}, {models} fine-tuned "
            f"from {Path(inspection.base).name}; {tensors}, "
            f"{count(inspection.whole.weights)} weights."
        )
    ]
    if inspection.method != "pcb":
        sentences.append(
            f"Who keeps and wins what is told of pcb, not of {inspection.method}."
        )
    if inspection.skipped:
        skipped = _plural(len(inspection.skipped), "tensor")
        sentences.append(f"Not merged: {skipped}, first {inspection.skipped[0]}.")
    return " ".join(sentences)


def warnings(inspection: Inspection) -> Iterator[str]:
    """What no merge should look like."""
    whole = inspection.whole
    names = inspection.short_models()
    for name, norm in zip(names, whole.norms(), strict=True):
        if norm == 0:
            yield f"{name} is the base model: its task vector is zero everywhere."
    for i, row in enumerate(whole.cosines()):
        for j, similarity in enumerate(row[:i]):
            if similarity is not None and similarity > _SAME:
                yield f"{names[j]} and {names[i]} are the same model, or nearly."
    for k, outcome in enumerate(whole.outcomes):
        reached = whole.merged_over_mean(outcome)
        if reached is not None and reached < _VANISHED:
            yield (
                f"At {inspection.settings[k]} the merge is the base model: it adds "
                f"{ratio(reached)} of the mean task vector."
            )


def task_vectors(inspection: Inspection) -> Sheet:
    """The task vectors themselves, by kind of tensor."""
    headings, tallies = _by_kind(inspection)
    conflicts = [percent(tally.conflict_share()) for tally in tallies]
    norms = [_relative_norms(tally) for tally in tallies]
    lines = [
        Line("weights", [count(tally.weights) for tally in tallies]),
        Line("signs disagree, %", conflicts),
        *_block("norm, % of the base's", _numbered(inspection), norms),
    ]
    return Sheet("Task vectors", headings, lines)


def cosines(inspection: Inspection) -> Sheet:
    """Cosine similarities, of each two models or of each with its extremes."""
    matrix = inspection.whole.cosines()
    models = _numbered(inspection)
    title = "Cosine similarity"
    if len(models) <= _MATRIX:
        lines = [
            Line(model, ["" if i == j else cosine(c) for j, c in enumerate(matrix[i])])
            for i, model in enumerate(models)
        ]
        return Sheet(title, [str(i + 1) for i in range(len(models))], lines)
    lines = []
    for i, model in enumerate(models):
        others = [(c, j) for j, c in enumerate(matrix[i]) if j != i and c is not None]
        ends = [max(others), min(others)] if others else []
        cells = [text for c, j in ends for text in (cosine(c), str(j + 1))]
        lines.append(Line(model, cells))
    return Sheet(title, ["highest", "with", "lowest", "with"], lines)


def setting_title(inspection: Inspection, k: int) -> str:
    """What a setting is, and where it comes from."""
    sources = {"recipe": " (the recipe)", "defaults": " (pcb's defaults)"}
    text = f"{inspection.settings[k]}{sources.get(origin(inspection, k), '')}"
    return text[0].upper() + text[1:]


def outcome(inspection: Inspection, k: int) -> Sheet:
    """What a setting does, by kind of tensor."""
    headings, tallies = _by_kind(inspection)
    models = _numbered(inspection)
    outcomes = [tally.outcomes[k] for tally in tallies]
    shares = [outcome.shares() for outcome in outcomes]
    reached = [t.merged_over_mean(o) for t, o in zip(tallies, outcomes, strict=True)]
    nobody = [None] * len(models)
    wins = [outcome.win_shares() or nobody for outcome in outcomes]
    tied = [outcome.tied_share() for outcome in outcomes]
    lines = [
        Line("kept by none, %", [percent(none) for none, _, _ in shares]),
        Line("kept by one, %", [percent(one) for _, one, _ in shares]),
        Line("kept by several, %", [percent(several) for _, _, several in shares]),
        Line("merged / mean", [ratio(r) for r in reached]),
        *_block("keeps, %", models, [outcome.kept_shares() for outcome in outcomes]),
        *_block("wins, %", models, wins),
    ]
    if any(share and share >= 0.0005 for share in tied):
        lines.append(Line("  tied", [percent(share) for share in tied]))
    return Sheet(setting_title(inspection, k), headings, lines)


def by_layer(inspection: Inspection, k: int) -> Sheet:
    """What a setting does, by layer."""
    models = inspection.short_models()
    lines = []
    for layer, tally in inspection.layers().items():
        outcome = tally.outcomes[k]
        wins = outcome.win_shares()
        most = max(zip(wins, models, strict=True)) if wins else None
        cells = [
            count(tally.weights),
            percent(tally.conflict_share()),
            *map(percent, outcome.shares()),
            ratio(tally.merged_over_mean(outcome)),
            f"{clipped(most[1], 22)} {percent(most[0])}" if most else "-",
        ]
        lines.append(Line(layer, cells))
    headings = ["weights", "disagree", "none", "one", "several", "merged", "wins most"]
    return Sheet("The same by layer", headings, lines)


def _by_kind(inspection: Inspection) -> tuple[list[str], list[Metrics]]:
    kinds = inspection.kinds()
    headings = [*(_SHORT.get(kind, kind) for kind in kinds), _ALL]
    return headings, [*kinds.values(), inspection.whole]


def _block(
    title: str, models: Sequence[str], columns: Sequence[Sequence[float | None]]
) -> Iterator[Line]:
    yield Line(title)
    for i, model in enumerate(models):
        yield Line(f"  {model}", [percent(column[i]) for column in columns])


def _relative_norms(tally: Metrics) -> list[float | None]:
    base = math.sqrt(tally.base_square)
    return [norm / base if base else None for norm in tally.norms()]


def _numbered(inspection: Inspection) -> list[str]:
    return [f"{i + 1} {name}" for i, name in enumerate(inspection.short_models())]


def _plural(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def clipped(name: str, length: int) -> str:
    """A name that leaves room for what it names; its ends tell models apart."""
    if len(name) <= length:
        return name
    head = (length - 1) // 3
    return f"{name[:head]}…{name[head + 1 - length :]}"


def count(number: int) -> str:
    """A number of weights in four characters or so."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.{1 if number < 100 * unit else 0}f}{name}"
    return str(number)


def percent(share: float | None) -> str:
    """A share in percent, without the sign."""
    if share is None:
        return "-"
    if 0 < share < 0.0005:
        return "<0.1"
    return f"{100 * share:.1f}"


def ratio(value: float | None) -> str:
    """A ratio of any size."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value == 0 or value >= 0.01 else f"{value:.0e}"


def cosine(value: float | None) -> str:
    """A cosine similarity."""
    return "-" if value is None else f"{value:.2f}"
