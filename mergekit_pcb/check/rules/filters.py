"""Filters of parameters: which tensors they match, and which they leave over.

A filter is no pattern: it matches the tensors whose names contain it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from mergekit.architecture.json_definitions import (
    JSON_ARCHITECTURES,
    JsonModuleArchitecture,
)
from mergekit.merge_methods.base import ParameterSpec

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.check.rules.local_models import local_model
from mergekit_pcb.check.rules.parameters import settings
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.recipes.positions import Place
from mergekit_pcb.suggestions import closest, misspelt, quoted

_RANGE = re.compile(r"\[?(\d+) *(?:-|:|\.\.) *(\d+)\]?")
_FOR_EXAMPLE = "write a piece of their names, such as `mlp` or `self_attn`"


def uncovered(document: Document) -> Iterator[Finding]:
    """Filtered lists that leave some tensors with the default, or with no value."""
    names = _tensor_names(document)
    # Of models that are not here, those of any that mergekit knows.
    models = _known_models() if names is None else [names]
    for group in document.groups:
        for parameter in document.parameters.values():
            for source in group.owners(parameter):
                found = group.sources(source, parameter.name)
                entries = [entry for place in found for entry in place.items or [place]]
                filters = [*map(_filter, entries)]
                if found and not any(_match_all(filters, model) for model in models):
                    yield from _left_over(parameter, found[0])


def _match_all(filters: Sequence[str], names: str) -> bool:
    """Whether each of some joined names contains one of the filters."""
    return all(any(text in name for text in filters) for name in names.splitlines())


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
    names = _tensor_names(document)
    for _, place, _ in settings(document):
        entries = [e for e in (place, *place.items) if isinstance(e.value, dict)]
        earlier: list[tuple[str, Place]] = []
        for entry in entries:
            if "model" in entry.keys:
                continue  # a list of models is a finding of its own
            yield from _one_filter(document, entry, names)
            own = _filter(entry)
            hiding = next((place for text, place in earlier if text in own), None)
            if hiding is not None:
                yield entry.error(
                    "this entry is never reached: the one on line "
                    f"{hiding.line} matches the same tensors first",
                    "put the narrower filter first",
                )
            # A misspelt `filter` was not meant to match everything.
            if own or not any(misspelt(key, ["filter"]) for key in entry.keys):
                earlier.append((own, entry))


def _tensor_names(document: Document) -> str | None:
    """The names in the models, joined; None if not all of them are known here."""
    names: set[str] = set()
    for group in document.groups:
        for source in group.inputs:
            local = local_model(document, source.model)
            # Filters see the names of mergekit's definition, if there is one.
            own = (local.weights or local.tensors) if local else None
            if own is None:
                return None
            names.update(own)
    return "\n".join(names) or None


def _one_filter(
    document: Document, entry: Place, names: str | None
) -> Iterator[Finding]:
    place = entry.get("filter")
    text = _filter(entry)
    if place is None or not isinstance(place.value, str) or not text:
        return
    odd = re.search(r"[^\w.]", text)
    if names is not None and text in names:
        pass
    elif odd is not None:
        # Tensors of language models have dotted names; a checkpoint file's may
        # hold any character.
        report = place.advice if document.kind == PYTORCH else place.error
        yield report(
            f"the filter `{text}` matches no tensor: it is looked for as it "
            f"stands, `{odd[0]}` included",
            _instead(text),
        )
        return
    elif names is not None:
        found = closest(text, _components(names))
        yield place.advice(
            f"no tensor of these models has `{text}` in its name",
            f"did you mean {quoted(found, 'or')}?" if found else _FOR_EXAMPLE,
        )
        return
    elif document.kind != PYTORCH and not _is_known(text):
        found = closest(text, _components(_known_names()))
        yield place.advice(
            f"no tensor that mergekit knows has `{text}` in its name",
            f"did you mean {quoted(found, 'or')}?" if found else _FOR_EXAMPLE,
        )
        return
    if text[-1] in "123456789" and text[-2:-1] in ("", "."):
        yield place.advice(
            f"the filter `{text}` also matches `{text}0` to `{text}9`",
            f"write `{text}.`",
        )


def _instead(pattern: str) -> str:
    """What to write in place of a pattern, a range or a list of names."""
    plain = pattern.replace("\\.", ".")
    joined = re.sub(r"[-\s]+", "_", plain.strip()).lower()
    if re.fullmatch(r"[\w.]+", joined) and _is_known(joined):
        return f"write `{joined}`"
    if layers := _RANGE.search(plain):
        before = re.split(r"[^\w.]", plain[: layers.start()])[-1]
        before = before if before.endswith(".") and _is_known(before) else "layers."
        first, last = f"{before}{layers[1]}.", f"{before}{layers[2]}."
        return f"write one entry for each layer, from `{first}` to `{last}`"
    alternatives = re.search(r"[|,;\s]", plain) is not None
    # Between two stars there is a piece of the name without dots at its ends.
    pieces = [piece.strip(".") for piece in re.split(r"[^\w.]+", plain)]
    pieces = [piece for piece in pieces if piece and _is_known(piece)]
    if not pieces:
        return _FOR_EXAMPLE
    if not alternatives:
        rarest = min(pieces, key=lambda piece: _known_names().count(_numbered(piece)))
        return f"write `{rarest}`"
    if re.search(r"[()]", plain) or len(pieces) == 1:
        return "write one entry for each piece"
    return f"write one entry for each of {quoted(pieces)}"


def _components(names: str) -> Sequence[str]:
    """The words between the dots of tensor names."""
    return sorted({word for word in re.split(r"[.\n]", names) if len(word) > 1})


def _is_known(text: str) -> bool:
    return _numbered(text) in _known_names()


def _numbered(text: str) -> str:
    return re.sub(r"\d+", "0", text)


@functools.cache
def _known_names() -> str:
    """The names in all of mergekit's architectures, joined; numbers are 0."""
    names = {name for model in _known_models() for name in model.splitlines()}
    return "\n".join(sorted(names))


@functools.cache
def _known_models() -> list[str]:
    """The names in each of mergekit's architectures, joined; numbers are 0."""
    models = []
    for architecture in JSON_ARCHITECTURES:
        names: set[str] = set()
        for module in architecture.modules.values():
            known = module.architecture
            if isinstance(known, JsonModuleArchitecture):
                parts = known.definition
                weights = [*parts.pre_weights, *parts.layer_templates.weights]
                for weight in (*weights, *parts.post_weights):
                    names.add(f"{module.weight_prefix or ''}{weight.name}")
        plain = [_numbered(re.sub(r"\$\{.*?\}", "0", name)) for name in names]
        models.append("\n".join(sorted(plain)))
    return [model for model in models if model]
