"""The tables of an inspection as text: the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.quantities import (
    BY_MODEL,
    SHOWN,
    cosine,
    count,
    percent,
    ratio,
    relative_norms,
    setting_values,
    values,
)
from mergekit_pcb.kernel.metrics import Metrics
from mergekit_pcb.output.table import Table
from mergekit_pcb.plugin.concentration import concentrated

# Column headings for kinds of tensors.
_SHORT = {"embedding": "embed", "attention": "attn"}
# Cosines of more models do not fit side by side.
_MATRIX = 8
# Patterns of names that a sentence lists.
_PATTERNS = 4
# What a merge adds is not that much shorter than the mean, unless it went wrong.
_VANISHED = 0.01
_SAME = 0.999


def summary(inspection: Inspection) -> str:
    """Recipe, method, models and size, in a few sentences."""
    models = _plural(len(inspection.models), "model")
    tensors = _plural(len(inspection.tensors), "tensor")
    sentences = [
        (
            f"{Path(inspection.recipe).name}: {inspection.method}, {models} fine-tuned "
            f"from {Path(inspection.base).name}; {tensors}, "
            f"{count(inspection.whole.weights)} weights."
        )
    ]
    if inspection.method != "pcb":
        sentences.append(
            f"Shares kept and won are those of pcb, not of {inspection.method}."
        )
    harmless = [name for name in inspection.skipped if name not in inspection.stops]
    if harmless:
        skipped = _plural(len(harmless), "tensor")
        sentences.append(f"Not merged: {skipped}, first {harmless[0]}.")
    if inspection.dropped:
        dropped = _plural(sum(inspection.dropped.values()), "tensor")
        patterns = [
            f"{pattern} ({number})" for pattern, number in inspection.dropped.items()
        ]
        more = ", and more" if len(patterns) > _PATTERNS else ""
        sentences.append(
            f"Not in the output, though a model has them: {dropped}, "
            f"{', '.join(patterns[:_PATTERNS])}{more}."
        )
    return " ".join(sentences)


def warnings(inspection: Inspection) -> Iterator[str]:
    """What stops a merge, copies among the models, a merge that adds nothing."""
    if inspection.stops:
        number = len(inspection.stops)
        where = f" at {number} tensors, the first" if number > 1 else ""
        first = next(iter(inspection.stops.values()))
        yield f"A merge by pcb stops{where}: {first}."
    whole = inspection.whole
    names = inspection.short_models()
    for name, norm in zip(names, whole.norms(), strict=True):
        if norm == 0:
            yield f"{name} is the base model: its task vector is zero everywhere."
    for i, row in enumerate(whole.cosines()):
        for j, similarity in enumerate(row[:i]):
            if similarity is not None and similarity > _SAME:
                yield f"{names[j]} and {names[i]} are the same model, or nearly."
    for setting, competition in zip(inspection.settings, whole.outcomes, strict=True):
        added = whole.merged_over_mean(competition)
        if added is not None and added < _VANISHED:
            yield (
                f"At {setting} the merge is the base model: it adds "
                f"{ratio(added)} of the mean task vector."
            )
    kinds = inspection.kinds()
    sizes = {kind: metrics.weights for kind, metrics in kinds.items()}
    for k, setting in enumerate(inspection.settings):
        kept = {kind: list(m.outcomes[k].kept) for kind, m in kinds.items()}
        for i, kind, share in concentrated(kept, sizes):
            yield (
                f"At {setting}, {names[i]} keeps {percent(share)} % of its coordinates "
                f"in tensors of one kind ({kind}) and hardly any elsewhere."
            )


def task_vectors(inspection: Inspection) -> Table:
    """The task vectors themselves, by kind of tensor."""
    return _by_kind(
        "Task vectors",
        inspection,
        lambda metrics: values(metrics) | {"relative_norms": relative_norms(metrics)},
    )


def competition(inspection: Inspection, k: int) -> Table:
    """What pcb does under setting ``k``, by kind of tensor."""
    sources = {"recipe": " (the recipe)", "defaults": " (pcb's defaults)"}
    title = f"{inspection.settings[k]}{sources.get(inspection.origin(k), '')}"
    return _by_kind(
        title[0].upper() + title[1:],
        inspection,
        lambda metrics: setting_values(metrics, k),
    )


def automatic(inspection: Inspection, k: int) -> str:
    """What `lambda: auto` becomes under setting ``k``; empty if there is none."""
    became = inspection.lambdas[k]
    return "" if became is None else f"lambda: auto becomes {became}."


def _by_kind(
    title: str, inspection: Inspection, of: Callable[[Metrics], Mapping[str, Any]]
) -> Table:
    kinds = inspection.kinds()
    columns = [of(metrics) for metrics in (*kinds.values(), inspection.whole)]
    rows: list[list[str]] = []
    for key in (key for key in SHOWN if key in columns[0]):
        label, _, text = SHOWN[key]
        cells = [column[key] for column in columns]
        if key in BY_MODEL:
            rows.append([label])
            for i, model in enumerate(_numbered(inspection)):
                own = (cell[i] if cell else None for cell in cells)
                rows.append([f"  {model}", *map(text, own)])
        elif key != "tied" or any(cell and cell >= 0.0005 for cell in cells):
            rows.append([label, *map(text, cells)])
    return Table(title, ["", *(_SHORT.get(kind, kind) for kind in kinds), "all"], rows)


def cosines(inspection: Inspection) -> Table:
    """Cosine similarities, of each two models or of each with its extremes."""
    matrix = inspection.whole.cosines()
    title, models = "Cosine similarity", _numbered(inspection)
    if len(models) <= _MATRIX:
        rows = [
            [model, *("" if i == j else cosine(c) for j, c in enumerate(matrix[i]))]
            for i, model in enumerate(models)
        ]
        return Table(title, ["", *(str(i + 1) for i in range(len(models)))], rows)
    rows = []
    for i, model in enumerate(models):
        others = [(c, j) for j, c in enumerate(matrix[i]) if j != i and c is not None]
        ends = [max(others), min(others)] if others else []
        rows.append([model, *(x for c, j in ends for x in (cosine(c), str(j + 1)))])
    return Table(title, ["", "highest", "with", "lowest", "with"], rows)


def by_layer(inspection: Inspection, k: int) -> Table:
    """What pcb does under setting ``k``, by layer, and the model that wins most."""
    models = inspection.short_models()
    shown = {key: each for key, each in SHOWN.items() if each.heading}
    rows = []
    for layer, metrics in inspection.layers().items():
        found = values(metrics) | setting_values(metrics, k)
        cells = [each.text(found[key]) for key, each in shown.items()]
        wins = found["wins"]
        most = max(zip(wins, models, strict=True)) if wins else (None, "-")
        rows.append([layer, *cells, most[1], percent(most[0])])
    headings = ["", *(each.heading for each in shown.values()), "wins most", "%"]
    return Table("The same by layer", headings, rows, words=len(shown) + 1)


def _numbered(inspection: Inspection) -> list[str]:
    return [f"{i + 1} {name}" for i, name in enumerate(inspection.short_models())]


def _plural(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def clipped(name: str, length: int) -> str:
    """A name without its middle where it is too long; its ends tell models apart."""
    if len(name) <= length:
        return name
    head = (length - 1) // 3
    return f"{name[:head]}…{name[head + 1 - length :]}"
