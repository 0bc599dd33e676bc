"""Filtered lists: tensors they leave out, entries they never reach."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit.merge_methods.base import ParameterSpec

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import misspelt


def uncovered(document: Document) -> Iterator[Finding]:
    """Filtered lists that leave some tensors with the default, or with no value."""
    for group in document.groups:
        for parameter in document.parameters.values():
            for source in group.owners(parameter):
                found = group.sources(source, parameter.name)
                if found and not any(map(_covers_all, found)):
                    yield from _left_over(parameter, found[0])


def _covers_all(place: Place) -> bool:
    # Any other value holds for all tensors, or is a finding of its own.
    return not _conditions(place) or any(map(_catches_all, place.items or [place]))


def _conditions(place: Place) -> list[Place]:
    """The entries with a value and a filter, or the only one."""
    entries = [place, *place.items]
    return [entry for entry in entries if isinstance(entry.value, dict)]


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
        conditions = _conditions(place)
        for number, condition in enumerate(conditions):
            yield from _one_filter(document, condition)
            hiding = [c for c in conditions[:number] if _hides(c, condition)]
            if hiding:
                yield condition.error(
                    "this entry is never reached: the one on line "
                    f"{hiding[0].line} matches the same tensors first",
                    "put the narrower filter first",
                )


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
