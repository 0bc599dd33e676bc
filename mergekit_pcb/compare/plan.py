"""What a comparison has to do, and how long that may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, median
from time import perf_counter

from mergekit_pcb.output.text import size

# Bytes of models that a merge reads in a second, where none has been measured: what two
# cores do (experiments/benchmark_merge.py).
_BYTES_PER_SECOND = 3e8


@dataclass
class Plan:
    """What is still to be done, corrected as it is done.

    Attributes:
        merges: how many are left.
        evaluations: how many are left.
        known: how many evaluations the folder has from before.
        bytes_read: by one merge; 0 if not known.
        bytes_written: on disk at a time; 0 if not known.
        merge_seconds: of each merge so far.
        evaluation_seconds: of each evaluation so far.
    """

    merges: int = 0
    evaluations: int = 0
    known: int = 0
    bytes_read: float = 0
    bytes_written: float = 0
    merge_seconds: list[float] = field(default_factory=list)
    evaluation_seconds: list[float] = field(default_factory=list)

    def merged(self, seconds: float) -> None:
        """Count a merge, successful or not."""
        self.merges = max(0, self.merges - 1)
        self.merge_seconds.append(seconds)

    def evaluated(self, seconds: float | None) -> None:
        """Count an evaluation, successful or not; None if there was no model for it."""
        self.evaluations = max(0, self.evaluations - 1)
        if seconds is not None:
            self.evaluation_seconds.append(seconds)

    @property
    def merging_left(self) -> float | None:
        """Seconds that the merges may take, if that can be said."""
        if self.merge_seconds:
            return self.merges * fmean(self.merge_seconds)
        guess = self.bytes_read / _BYTES_PER_SECOND
        return self.merges * guess if guess or not self.merges else None

    @property
    def left(self) -> float | None:
        """Seconds that everything may take, if that can be said."""
        if self.merging_left is None:
            return None
        if not self.evaluations:
            return self.merging_left
        if not self.evaluation_seconds:
            return None
        # The first evaluation may take far longer, with what is loaded once.
        usual = median(self.evaluation_seconds)
        return self.merging_left + self.evaluations * usual

    def __str__(self) -> str:
        """The plan in one line, for people."""
        if not self.merges and not self.evaluations:
            return f"Plan: nothing to do; all {self.known} evaluations are known."
        merges = f"{self.merges} merges and " if self.merges else ""
        parts = [f"{merges}{self.evaluations} evaluations"]
        if self.known:
            parts[0] += f" ({self.known} more are known from before)"
        if self.bytes_written:
            parts.append(f"up to {size(self.bytes_written)} on disk")
        if self.left is not None:
            parts.append(f"about {duration(self.left)}")
        elif self.merges and self.merging_left is not None:
            merging = f"about {duration(self.merging_left)} of merging; "
            parts.append(
                f"{merging}the first evaluation shows how long the others take"
            )
        else:
            each = "of each " if self.merges else ""
            parts.append(f"the first {each}shows how long the others take")
        return f"Plan: {'; '.join(parts)}."


@contextmanager
def timed(count: Callable[[float], None]) -> Iterator[Callable[[], float]]:
    """Count a step with its seconds, unless it is interrupted; gives a clock."""
    start = perf_counter()

    def seconds() -> float:
        return round(perf_counter() - start, 3)

    try:
        yield seconds
    except Exception:
        count(seconds())
        raise
    count(seconds())


def duration(seconds: float) -> str:
    """A time in the unit that people would use.

    Example:
        >>> duration(0.2), duration(48.4), duration(700), duration(9000)
        ('1 s', '48 s', '12 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
