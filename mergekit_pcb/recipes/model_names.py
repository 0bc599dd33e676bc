"""Short names of models, the same in every table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from pathlib import PurePath

from mergekit_pcb.printable import printable

# How the hub's cache stores a version of a model.
_SNAPSHOT = re.compile(r"(?:.*/)?models--([^/]+)/snapshots/([^/]+)(/.*)?")


def short_names(models: Collection[str]) -> list[str]:
    """The last part of each path, with as much before it as tells them apart.

    A version in the hub's cache is named like the model that it is of, with the
    revision if several versions are listed. No two models get one name.

    Example:
        >>> short_names(["/data/a/final", "/data/b/final", "org/chat"])
        ['a/final', 'b/final', 'chat']
        >>> short_names(["/hub/models--org--chat/snapshots/1f5e"])
        ['chat']
    """
    plain = [_parts(model) for model in models]
    # Versions of one model differ in nothing but the revision.
    versions = Counter(plain)
    parts = [
        _parts(model, revision=True) if versions[part] > 1 else part
        for model, part in zip(models, plain, strict=True)
    ]
    names = [part[-1] for part in parts]
    for length in range(2, max(map(len, parts), default=0) + 1):
        uses = Counter(names)
        names = [
            "/".join(part[-length:]) if uses[name] > 1 else name
            for part, name in zip(parts, names, strict=True)
        ]
    # What is left are spellings of one path, such as `a` and `./a`.
    uses = Counter(names)
    return [
        name if uses[name] == 1 else printable(model)
        for name, model in zip(names, models, strict=True)
    ]


def _parts(model: str, *, revision: bool = False) -> tuple[str, ...]:
    if found := _SNAPSHOT.fullmatch(model):
        version = f"@{found[2][:7]}" if revision else ""
        model = found[1].replace("--", "/") + version + (found[3] or "")
    return tuple(map(printable, PurePath(model).parts)) or (printable(model),)
