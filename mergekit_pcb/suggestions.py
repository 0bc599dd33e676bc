"""The word that was probably meant: "did you mean" for every message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def _folded(word: str) -> str:
    return word.strip().lower().replace("-", "_").replace(" ", "_")


def _likeness(option: str, word: str) -> float:
    # Of words of three letters two that changed places are half.
    if len(word) > 2 and option != word and sorted(option) == sorted(word):
        return 0.9
    return difflib.SequenceMatcher(None, option, word).ratio()


def misspelt(word: str, options: Iterable[str]) -> list[str]:
    """The options that differ from ``word`` by a few letters, the nearest first."""
    likeness = {option: _likeness(_folded(option), _folded(word)) for option in options}
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
    words = {option: _folded(option).split("_") for option in options}
    if near := misspelt(word, words):
        return near
    # Few letters are the same where a word is left out (`base`), cut short (`norm`) or
    # added (`pcb_merging`).
    folded = _folded(word)
    shorter = [o for o in words if any(w.startswith(folded) for w in words[o])]
    longer = [o for o in words if set(words[o]) < set(folded.split("_"))]
    found = shorter or longer if len(folded) > 2 else []
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
