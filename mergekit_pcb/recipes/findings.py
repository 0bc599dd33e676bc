"""One thing that is wrong in a recipe, and the word that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mergekit_pcb.errors import PCBError

ERROR = "error"
ADVICE = "advice"


@dataclass(frozen=True, order=True)
class Finding:
    """What is wrong at one place of a recipe, and what to write instead.

    An ``error`` stops mergekit, or has it do something else than the recipe says;
    ``advice`` runs as written. Lines and columns count from 1; ``path`` leads to
    the place as code would: ``models[1].parameters.densty``.
    """

    file: str
    line: int
    column: int
    severity: str
    message: str
    fix: str = ""
    path: str = ""

    def __str__(self) -> str:
        text = f"{self.message}; {self.fix}" if self.fix else self.message
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.severity}: {' '.join(text.split())}"


def require_no_errors(findings: Iterable[Finding], file: str) -> None:
    """Let nothing but advice pass.

    Raises:
        PCBError: the first error, and how many more there are.
    """
    errors = sorted(found for found in findings if found.severity == ERROR)
    if errors:
        first = str(errors[0]).replace(f" {ERROR}: ", " ", 1)
        more = f" ({len(errors) - 1} more: run `mergekit-pcb check {file}`)"
        raise PCBError(first + more * (len(errors) > 1))


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
