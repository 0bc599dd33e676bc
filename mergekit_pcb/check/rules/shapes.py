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
        found = [(source, folder_of(source.model)) for source in group.inputs]
        local = [(source, folder) for source, folder in found if folder is not None]
        for source, folder in local[1:]:
            first, known = local[0]
            numbers = {"hidden dimensions": (folder.width, known.width)}
            if group.slice is None:
                layers = folder.layers(group.module), known.layers(group.module)
                numbers = {"layers": layers, **numbers}
            if group.has_vocabulary and not aligned:
                numbers["tokens"] = folder.vocabulary, known.vocabulary
            for what, (own, other) in numbers.items():
                if None in (own, other) or own == other:
                    continue
                message = f"`{source.model}` has {own} {what}, `{first.model}` {other}"
                fix = "models of different shapes cannot be merged"
                if what == "tokens":
                    message += ", and nothing aligns them"
                    fix = "write `tokenizer_source: base`, or `union`"
                yield source.place.error(message, fix)
