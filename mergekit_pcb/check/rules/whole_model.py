"""What PCB takes once: options of the whole model, a file, a lambda of 0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mergekit_pcb.check.rules.document import Document
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.check.rules.values import factors_of, values
from mergekit_pcb.plugin.parameters import AUTO
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place

_ONCE = ("inter", "clamp")


def varying_options(document: Document) -> Iterator[Finding]:
    """An `inter` or `clamp` that differs by tensor where the whole model is ranked."""
    scopes = {leaf.value for leaf in _leaves(document, "scope")}
    if not document.is_pcb or scopes != {"model"}:
        return
    for name in _ONCE:
        leaves = _leaves(document, name)
        if len({leaf.value for leaf in leaves}) > 1:
            yield leaves[0].error(
                f"with `scope: model` all tensors have the same `{name}`",
                "write one value, or `scope: tensor`",
            )


def statistics_files(document: Document) -> Iterator[Finding]:
    """A `statistics` that names no file."""
    for leaf in _leaves(document, "statistics") if document.is_pcb else ():
        if isinstance(leaf.value, str) and not Path(leaf.value).is_file():
            yield leaf.error(
                f"there is no statistics file `{leaf.value}`",
                "remove `statistics`, or make the file with `mergekit-pcb merge "
                "--save-statistics`",
            )


def zero_lambda(document: Document) -> Iterator[Finding]:
    """A lambda of 0, which leaves nothing of the models."""
    for name, place, parameter in settings(document) if document.is_pcb else ():
        if name == "lambda" and parameter is not None:
            points = [point for _, points in values(place) for point in points]
            # `auto` is no factor.
            if factors_of(parameter, place) == [0.0] * len(points):
                yield place.advice(
                    "`lambda: 0` gives the base model back", f"write `{AUTO}`"
                )


def _leaves(document: Document, parameter: str) -> list[Place]:
    """Every value of a parameter of PCB, gradients and filters included."""
    return [
        leaf
        for name, place, known in settings(document)
        if name == parameter and known is not None
        for _, points in values(place)
        for leaf in points
    ]
