"""One thing that is wrong in a recipe, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mergekit_pcb.errors import PCBError
from mergekit_pcb.printable import printable

ERROR = "error"
ADVICE = "advice"


@dataclass(frozen=True, order=True)
class Finding:
    """What is wrong at one place of a recipe, and what to write instead.

    An ``error`` stops mergekit, or makes it do something else than is written;
    ``advice`` is no certain mistake. Lines and columns count from 1; ``path`` leads to
    the place as code would: ``models[1].parameters.densty``. ``rule`` is the id of
    the rule that found it, which stays the same when messages change.
    """

    file: str
    line: int
    column: int
    severity: str
    message: str
    fix: str = ""
    path: str = ""
    rule: str = ""

    def __str__(self) -> str:
        text = f"{self.message}; {self.fix}" if self.fix else self.message
        where = f"{self.file}:{self.line}:{self.column}"
        return printable(f"{where}: {self.severity}: {' '.join(text.split())}")


def require_no_errors(findings: Iterable[Finding], file: str) -> None:
    """Refuse a recipe with errors.

    Raises:
        PCBError: the first error, and how many more there are.
    """
    errors = sorted(found for found in findings if found.severity == ERROR)
    if errors:
        first = str(errors[0]).replace(f" {ERROR}: ", " ", 1)
        more = f" ({len(errors) - 1} more: run `mergekit-pcb check {file}`)"
        raise PCBError(first + more * (len(errors) > 1))
