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
                entries = [entry for place in found for entry in place.items or [place]]
                if found and all(map(_filter, entries)):
                    yield from _left_over(parameter, found[0])


def _filter(entry: Place) -> str:
    """What the names of the tensors must contain; empty if an entry is for all."""
    place = entry.get("filter")
    return "" if place is None or place.value == "*" else str(place.value)


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
        entries = [e for e in (place, *place.items) if isinstance(e.value, dict)]
        for number, entry in enumerate(entries):
            yield from _one_filter(document, entry)
            hiding = [e for e in entries[:number] if _hides(e, entry)]
            if hiding:
                yield entry.error(
                    "this entry is never reached: the one on line "
                    f"{hiding[0].line} matches the same tensors first",
                    "put the narrower filter first",
                )


def _hides(earlier: Place, later: Place) -> bool:
    if "filter" not in earlier.keys:
        # A misspelt `filter` was not meant to match everything.
        return not any(misspelt(key, ["filter"]) for key in earlier.keys)
    return _filter(earlier) in _filter(later)


def _one_filter(document: Document, entry: Place) -> Iterator[Finding]:
    place = entry.get("filter")
    if place is None or not isinstance(place.value, str) or not _filter(entry):
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
