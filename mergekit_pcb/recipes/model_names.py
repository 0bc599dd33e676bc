"""Short names of models, the same in every table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePath


def short_names(models: Collection[str]) -> list[str]:
    """The last part of each path, with as much before it as tells them apart.

    Example:
        >>> short_names(["/data/a/final", "/data/b/final", "org/chat"])
        ['a/final', 'b/final', 'chat']
    """
    parts = [PurePath(model).parts for model in models]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        clashing = {name for name in names if names.count(name) > 1}
        if not clashing:
            break
    shortest = [part[-1] for part in parts]
    return [
        short if shortest.count(short) == 1 else long
        for short, long in zip(shortest, names if parts else [], strict=True)
    ]
