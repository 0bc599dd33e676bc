"""Local models whose configurations say that they cannot be merged."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.check.rules.folders import folder_of
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.suggestions import did_you_mean, quoted


def unknown_modules(document: Document) -> Iterator[Finding]:
    """Modules that mergekit's definition of a local model does not have."""
    modules = document.root.get("modules")
    for name, key in (modules.keys if modules is not None else {}).items():
        for group in document.groups:
            folder = folder_of(group.inputs[0].model)
            known = (
                folder.architecture.modules if folder and folder.architecture else {}
            )
            if group.module == name and known and name not in known:
                yield key.error(
                    f"`{group.inputs[0].model}` has no module `{name}`",
                    did_you_mean(name, known) or f"it has {quoted(list(known))}",
                )


def different_models(document: Document) -> Iterator[Finding]:
    """Local models whose layers, widths or vocabularies differ."""
    aligned = any(document.root.get(k) for k in ("tokenizer_source", "tokenizer"))
    for group in document.groups if document.kind != PYTORCH else ():
        measured = [
            (source, folder)
            for source in group.inputs
            if (folder := folder_of(source.model)) is not None
        ]
        for source, folder in measured[1:]:
            first, known = measured[0]
            pairs = {
                "layers": (
                    (folder.layers(group.module), known.layers(group.module))
                    if group.slice is None
                    else (None, None)
                ),
                "hidden dimensions": (folder.width, known.width),
            }
            for what, (own, other) in pairs.items():
                if own is not None and other is not None and own != other:
                    yield source.place.error(
                        f"`{source.model}` has {own} {what}, `{first.model}` {other}",
                        "models of different shapes cannot be merged",
                    )
            tokens, others = folder.vocabulary, known.vocabulary
            if tokens is None or others is None or tokens == others:
                continue
            if group.has_vocabulary and not aligned:
                yield source.place.error(
                    f"`{source.model}` has {tokens} tokens, `{first.model}` {others}, "
                    "and nothing aligns them",
                    "write `tokenizer_source: base`, or `union`",
                )
