"""Settings from recipes of other methods that do not suit PCB; all are advice."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit.merge_methods.base import ParameterSpec

from mergekit_pcb.check.rules.document import Document
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.check.rules.values import values
from mergekit_pcb.plugin.parameters import NO_EFFECT
from mergekit_pcb.recipes.findings import Finding


def densities(document: Document) -> Iterator[Finding]:
    """Densities outside [0, 1], and large ones, which leave PCB little to balance."""
    for name, place, parameter in settings(document):
        if name != "density" or parameter is None:
            continue
        leaves = [leaf for _, points in values(place) for leaf in points]
        points = [(leaf, _number(parameter, leaf.value)) for leaf in leaves]
        for leaf, value in points:
            if value is not None and not 0 <= value <= 1:
                kept = "everything" if value > 1 else "nothing"
                meant = f", for example {value / 100:g}" if 2 <= value <= 100 else ""
                yield leaf.advice(
                    f"a density is a fraction, and {value:g} keeps {kept}",
                    f"write a number between 0 and 1{meant}",
                )
        high = [leaf for leaf, value in points if value is not None and value >= 0.5]
        if high and _is_pcb(document):
            yield high[0].advice(
                f"density {high[0].value} leaves PCB little to balance: half of the "
                "coordinates or more compete",
                f"try the default, {parameter.default}",
            )


def flags(document: Document) -> Iterator[Finding]:
    """Parameters that PCB accepts and does not read."""
    for name, place, parameter in settings(document):
        if parameter is not None and parameter.description == NO_EFFECT:
            yield place.advice(f"`{name}` has no effect on `pcb`", "remove it")


def weights(document: Document) -> Iterator[Finding]:
    """Weights that add up to 1, which make a merge by PCB weaker."""
    parameter = document.parameters.get("weight")
    if parameter is None or not _is_pcb(document):
        return
    for group in document.groups:
        chosen = [group.sources(source, "weight")[:1] for source in group.non_base]
        places = [place for found in chosen for place in found]
        numbers = [_number(parameter, place.value) or 0.0 for place in places]
        count = len(group.non_base)
        each = len(numbers) == count and all(0 < number < 1 for number in numbers)
        if count > 1 and each and abs(sum(numbers) - 1) < 0.05:
            yield places[0].advice(
                f"weights that add up to 1 make the merge about {count} times weaker: "
                "the competition already shares each coordinate out",
                "leave `weight` at 1 and scale with `lambda`",
            )


def union_tokenizer(document: Document) -> Iterator[Finding]:
    """A union of vocabularies, whose made-up rows take part in PCB's competition."""
    chosen = document.tokenizer
    if chosen is not None and chosen.value == "union" and _is_pcb(document):
        yield chosen.advice(
            "`union` makes up embedding rows for tokens that a model lacks, and PCB "
            "lets them compete",
            "write `base` unless the added tokens are needed",
        )


def _is_pcb(document: Document) -> bool:
    return document.spec is not None and document.spec.name == "pcb"


def _number(parameter: ParameterSpec, value: object) -> float | None:
    try:
        validated = parameter.validate(value)
    except Exception:  # a refused value is a finding of its own
        return None
    return validated if isinstance(validated, float) else None
