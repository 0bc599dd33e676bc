"""Filtered lists: tensors they leave out, entries they never reach."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit.merge_methods.base import ParameterScope, ParameterSpec

from mergekit_pcb.check.rules.document import PYTORCH, Document, Input
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import misspelt


def uncovered(document: Document) -> Iterator[Finding]:
    """Filtered lists that leave some tensors with the default, or with no value."""
    spec = document.spec
    for group in document.groups if spec is not None else ():
        base = group.base.model if group.base else None
        for parameter in spec.parameters if spec is not None else ():
            if parameter.scope == ParameterScope.SHARED:
                inputs: list[Input | None] = [None]
            else:
                inputs = [
                    source
                    for source in group.inputs
                    if source.model != base or parameter.scope == ParameterScope.INPUT
                ]
            for source in inputs:
                found = group.sources(source, parameter.name)
                if found and not any(_covers_all(place) for place in found):
                    yield from _left_over(parameter, found[0])


def _covers_all(place: Place) -> bool:
    if isinstance(place.value, dict):
        return _catches_all(place)
    if any(isinstance(item.value, dict) for item in place.items):
        return any(_catches_all(item) for item in place.items)
    # A broken value is a finding of its own and says nothing about coverage.
    return True


def _catches_all(condition: Place) -> bool:
    filtered = condition.get("filter")
    return filtered is None or filtered.value in ("", "*")


def _left_over(parameter: ParameterSpec, place: Place) -> Iterator[Finding]:
    message = f"tensors that match no filter of `{parameter.name}`"
    fix = "end the list with `- value: …` and no filter"
    if parameter.required:
        yield place.error(f"{message} have none at all, and mergekit stops", fix)
    elif parameter.default is not None:
        # A default of None leaves tensors as they are, which is what filters on
        # an optional parameter are for.
        default = str(parameter.default).lower()
        yield place.advice(f"{message} get the default, {default}", fix)


def wrong_filters(document: Document) -> Iterator[Finding]:
    """Filters that match no tensor, or only tensors that an earlier one matches."""
    for _, place, _ in settings(document):
        conditions = [item for item in place.items if isinstance(item.value, dict)]
        if isinstance(place.value, dict):
            conditions = [place]
        earlier: list[Place] = []
        for condition in conditions:
            yield from _one_filter(document, condition)
            hiding = next((p for p in earlier if _hides(p, condition)), None)
            if hiding is not None:
                yield condition.error(
                    "this entry is never reached: the one on line "
                    f"{hiding.line} matches the same tensors first",
                    "put the narrower filter first",
                )
            earlier.append(condition)


def _hides(earlier: Place, later: Place) -> bool:
    if "filter" not in earlier.keys and any(
        misspelt(k, ["filter"]) for k in earlier.keys
    ):
        return False  # it was not meant to catch everything
    if _catches_all(earlier):
        return True
    first, second = earlier.get("filter"), later.get("filter")
    if first is None or second is None or _catches_all(later):
        return False
    return str(first.value) in str(second.value)


def _one_filter(document: Document, condition: Place) -> Iterator[Finding]:
    place = condition.get("filter")
    if place is None or not isinstance(place.value, str) or _catches_all(condition):
        return
    odd = [letter for letter in place.value if letter in "*^$|\\?+()[]{} "]
    if odd:
        # Tensors of language models have dotted names; a checkpoint file's may
        # hold any character.
        report = place.advice if document.kind == PYTORCH else place.error
        plain = "".join(c for c in place.value.replace(".*", "") if c not in odd)
        pieces = "write one entry for each piece"
        yield report(
            f"the filter `{place.value}` matches no tensor: it is looked for as it "
            f"stands, `{odd[0]}` included",
            pieces if "|" in odd else f"write `{plain}`",
        )
    elif place.value[-1] in "123456789" and place.value[-2:-1] in ("", "."):
        yield place.advice(
            f"the filter `{place.value}` also matches `{place.value}0` to "
            f"`{place.value}9`",
            f"write `{place.value}.`",
        )
