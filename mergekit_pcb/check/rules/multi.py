"""Several merges in one file: their names, and which needs which."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter

from mergekit_pcb.check.rules.document import Document
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place


def wrong_names(documents: Sequence[Document]) -> Iterator[Finding]:
    """Names of merges that are taken, missing, or not text."""
    first: dict[str | None, Place] = {}
    for document in documents:
        place = document.root.get("name")
        if place is not None and not isinstance(place.value, str):
            yield place.error(
                f"a merge's name is text, got {place.value!r}",
                f"put it in quotes: `'{place.value}'`",
            )
            continue
        if place is not None and (problem := _no_folder(place.value)):
            yield place.error(*problem)
        name, where = document.name, place or document.root
        line = first.setdefault(name, where).line
        if first[name] is not where and name is None:
            yield where.error(
                f"a second merge without `name`; the first is on line {line}",
                "name all but the last: `name: first-merge`",
            )
        elif first[name] is not where:
            yield where.error(
                f"the name `{name}` is taken by the merge on line {line}",
                "choose another name",
            )


def _no_folder(name: str) -> tuple[str, str] | None:
    """Why mergekit-multi could not name a merge's folder so, and refer to it."""
    parts = name.split("/")  # a folder may lie in another
    if all(re.fullmatch(r"[\w.-]+", part) and part.strip(".") for part in parts):
        return None
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "first-merge"
    why = "`@` and `+` begin a revision and an adapter"
    if "@" not in name and "+" not in name:
        why = "it is the name of a folder, and of a model"
    return f"the merge's name {name!r} cannot be written as a model: {why}", (
        f"write `{plain}`, here and where it is used"
    )


def names_in_other_places(documents: Sequence[Document]) -> Iterator[Finding]:
    """Names of merges that are also values elsewhere in the file.

    mergekit-multi replaces a merge's name by its folder in every value that equals it,
    also in the merge method, a filter or a number format.
    """
    names = {document.name for document in documents if document.name}
    for document in documents:
        models = {id(p) for place in document.references() for p in place.walk()}
        for place in document.root.walk():
            if not isinstance(place.value, str) or place.value not in names:
                continue
            if id(place) not in models and place is not document.root.get("name"):
                yield place.error(
                    f"`{place.value}` is also the name of a merge, and mergekit-multi "
                    "puts that merge's folder here",
                    "rename the merge",
                )


def cycles(documents: Sequence[Document]) -> Iterator[Finding]:
    """Merges that need each other."""
    needs = {document.name: _needed(document) for document in documents}
    while True:
        try:
            TopologicalSorter(needs).prepare()
            return
        except CycleError as error:
            # Each needs the next; the first is also the last.
            cycle = error.args[1][::-1]
        last, first = cycle[-2:]
        yield (
            needs[last]
            .pop(first)
            .error(
                f"these merges wait for each other: {' -> '.join(cycle)}",
                "let one of them start from another model",
            )
        )


def _needed(document: Document) -> dict[str, Place]:
    """The other merges whose results a merge needs, and where it names them."""
    found: dict[str, Place] = {}
    for place in document.references() if document.name is not None else ():
        model = document.parse(place)
        if model is not None and model.model.path in document.siblings:
            found.setdefault(model.model.path, place)
    return found
