"""Densities outside their range, or not for PCB; and the epsilon that moves them."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit_pcb.check.rules.document import Document
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.check.rules.values import factors_of, number_of, values
from mergekit_pcb.recipes.findings import Finding

# From here on inter-balancing keeps coordinates where a model disagrees with the sum.
_HALF = 0.5


def densities(document: Document) -> Iterator[Finding]:
    """Densities outside [0, 1], and large ones, which leave PCB little to balance.

    With lambda as a number both have been chosen together, such as by a search.
    """
    chosen = [
        factor
        for name, place, parameter in settings(document)
        if name == "lambda" and parameter is not None
        for factor in factors_of(parameter, place)
    ]
    method = document.spec.name if document.spec is not None else ""
    for name, place, parameter in settings(document):
        if name != "density" or parameter is None:
            continue
        leaves = [leaf for _, points in values(place) for leaf in points]
        points = [(leaf, number_of(parameter, leaf.value)) for leaf in leaves]
        for leaf, value in points:
            if value is None or 0 <= value <= 1:
                continue
            meant = f", for example {value / 100:g}" if 2 <= value <= 100 else ""
            fix = f"write a number between 0 and 1{meant}"
            # A probability of DARE, which torch refuses.
            if method.startswith("dare_") and value < 0:
                yield leaf.error("a density is a fraction, and mergekit stops", fix)
                continue
            kept = "everything" if value > 1 else "nothing"
            yield leaf.advice(
                f"a density is a fraction, and {value:g} keeps {kept}", fix
            )
        for leaf, value in points if document.is_pcb and not chosen else ():
            if value is not None and value >= _HALF:
                yield leaf.advice(
                    f"density {leaf.value} leaves PCB little to balance: half of the "
                    "coordinates or more compete",
                    f"write `{parameter.default}`, the default",
                )


def epsilons(document: Document) -> Iterator[Finding]:
    """An epsilon of DELLA with which mergekit stops: density ± epsilon leaves (0, 1).

    Where both differ by tensor, it is not known which meet.
    """
    density, epsilon = (document.parameters.get(n) for n in ("density", "epsilon"))
    if density is None or epsilon is None:
        return
    for group in document.groups:
        for source in group.non_base:
            places = group.sources(source, "density")[:1]
            of_epsilon = group.sources(source, "epsilon")[:1]
            kept = [d for place in places for d in factors_of(density, place)]
            moved = [e for place in of_epsilon for e in factors_of(epsilon, place)]
            moved = moved or [float(epsilon.default or 0)]
            if min(len(kept), len(moved)) != 1:
                continue
            for d, e in ((d, e) for d in kept for e in moved):
                # Others keep everything or nothing, which no epsilon moves.
                if 0 < d < 1 and not 0 < d - e <= d + e < 1:
                    room = min(d, 1 - d)
                    yield (of_epsilon or places)[0].error(
                        f"density {d:g} ± epsilon {e:g} leaves the range from 0 to 1, "
                        "and mergekit stops",
                        f"write an epsilon below {room:.4g}, such as {room / 2:.4g}",
                    )
                    break
