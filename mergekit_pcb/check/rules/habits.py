"""Settings from recipes of other methods that do not suit PCB; all are advice."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit.merge_methods.base import ParameterScope

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.check.rules.structure import is_misspelt
from mergekit_pcb.check.rules.values import SCALARS, factors_of, number_of
from mergekit_pcb.plugin.parameters import AUTO, NO_EFFECT
from mergekit_pcb.recipes.findings import Finding

_NEAR_ONE = 0.05


def lists_by_model(document: Document) -> Iterator[Finding]:
    """Lists with one value for each model, which mergekit reads as gradients."""
    for group in document.groups:
        counts = {len(group.inputs), len(group.non_base)} - {0, 1}
        for block in group.shared:
            for name, place in block.fields.items():
                parameter = document.parameters.get(name)
                if (
                    parameter is None
                    or parameter.scope == ParameterScope.SHARED
                    or len(place.items) not in counts
                    or not all(isinstance(p.value, SCALARS) for p in place.items)
                ):
                    continue
                yield place.advice(
                    f"`{name}` is a gradient, from {place.items[0].value} in the first "
                    f"layer to {place.items[-1].value} in the last one, for every "
                    "model, and not one value a model",
                    "if it was, write each value under that model's own `parameters:`",
                )


def flags(document: Document) -> Iterator[Finding]:
    """Parameters that PCB accepts and does not read."""
    for name, place, parameter in settings(document):
        if parameter is not None and parameter.description == NO_EFFECT:
            yield place.advice(f"`{name}` has no effect on `pcb`", "remove it")


def weights(document: Document) -> Iterator[Finding]:
    """Weights of PCB that change nothing, or that make the merge weaker."""
    parameter, scale = (document.parameters.get(n) for n in ("weight", "lambda"))
    if parameter is None or scale is None or not document.is_pcb:
        return
    for group in document.groups:
        chosen = [group.sources(source, "weight")[:1] for source in group.non_base]
        places = [place for found in chosen for place in found]
        numbers = [number_of(parameter, place.value) or 0.0 for place in places]
        count = len(group.non_base)
        if len(numbers) != count or count < 2:
            continue
        # The same weight below 0 turns the merge round, and 0 leaves the base.
        equal = len(set(numbers)) == 1 and numbers[0] > 0
        total_is_one = min(numbers) > 0 and abs(sum(numbers) - 1) < _NEAR_ONE
        scales = group.sources(None, "lambda")[:1]
        factors = [f for place in scales for f in factors_of(scale, place)]
        if factors and (total_is_one or (equal and numbers[0] < 1)):
            times = f"{count / sum(numbers):.3g}"
            yield places[0].advice(
                f"with `lambda: {factors[0]:g}` these weights make the merge about "
                f"{times} times weaker than weights of 1: the competition already "
                "shares each coordinate out",
                f"write `lambda: {AUTO}`, which makes up for it",
            )
        elif equal and numbers[0] != parameter.default and not factors:
            yield places[0].advice(
                f"`weight: {numbers[0]:g}` for every model changes nothing: with "
                f"`lambda: {AUTO}` only the proportions of the weights count",
                "remove `weight` from all models",
            )


def union_tokenizer(document: Document) -> Iterator[Finding]:
    """A union of vocabularies: one not asked for, or one that PCB has compete."""
    settings = document.root.get("tokenizer")
    chosen = document.tokenizer
    if (
        document.kind != PYTORCH
        and settings is not None
        and isinstance(settings.value, dict)
        and "source" not in settings.keys
        and not is_misspelt(document, settings, "source")
    ):
        yield settings.advice(
            "`tokenizer` without `source` takes the union of all vocabularies, and "
            "makes up embedding rows for tokens that a model lacks",
            "write `source: base` there, or `source: union` if it is meant",
        )
    if chosen is not None and chosen.value == "union" and document.is_pcb:
        yield chosen.advice(
            "`union` makes up embedding rows for tokens that a model lacks, and PCB "
            "lets them compete",
            "write `base` unless the added tokens are needed",
        )
