"""The word that was probably meant: "did you mean" for every message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def _folded(word: str) -> str:
    return word.strip().lower().replace("-", "_").replace(" ", "_")


def misspelt(word: str, options: Iterable[str]) -> list[str]:
    """The options that differ from ``word`` by a few letters, the nearest first."""
    by_folded = {_folded(option): option for option in options}
    likeness = {
        option: difflib.SequenceMatcher(None, folded, _folded(word)).ratio()
        for folded, option in by_folded.items()
    }
    best = max(likeness.values(), default=0.0)
    if best < 0.75:
        return []
    # `modles` is nearly as much `models` as `modules`; `Models` is only `models`.
    margin = 0.1 if best < 1 else 0.0
    near = [option for option, alike in likeness.items() if alike >= best - margin]
    return sorted(near, key=lambda option: -likeness[option])[:2]


def closest(word: str, options: Iterable[str]) -> list[str]:
    """The options that ``word`` was probably meant to be; often one, or none.

    Example:
        >>> closest("densty", ["weight", "density"])
        ['density']
        >>> closest("dare", ["linear", "dare_linear", "dare_ties"])
        ['dare_linear', 'dare_ties']
    """
    options = list(options)
    if near := misspelt(word, options):
        return near
    # A word left out (`base`) or one too many (`pcb_merging`) is far away in letters.
    parts = set(_folded(word).split("_"))
    shorter = [o for o in options if _folded(word) in _folded(o).split("_")]
    longer = [o for o in options if set(_folded(o).split("_")) < parts]
    found = shorter or longer
    return found if len(found) <= 3 else []


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``did you mean `density`?``, or nothing when no option is near."""
    found = closest(word, options)
    return f"did you mean {quoted(found, 'or')}?" if found else ""


def quoted(words: Sequence[str], conjunction: str = "and") -> str:
    """```a`, `b` and `c```."""
    ticked = [f"`{word}`" for word in words]
    if len(ticked) < 2:
        return "".join(ticked)
    return f"{', '.join(ticked[:-1])} {conjunction} {ticked[-1]}"
