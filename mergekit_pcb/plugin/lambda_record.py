"""What `lambda: auto` became in a merge, told when the merge is complete."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from statistics import median
from typing import Any, NamedTuple

from mergekit.io.tasks import FinalizeModel
from mergekit.io.tensor_writer import TensorWriter
from tqdm import tqdm  # type: ignore[import-untyped]

RECORD_KEY = "lambda_record"
"""The name of the `LambdaRecord` of a merge among the parameters of its tensors."""


class LambdaSummary(NamedTuple):
    """The values of lambda in a merge.

    Attributes:
        tensors: how many tensors chose one by `auto`.
        least, middle, largest: smallest value, median and largest.
    """

    tensors: int
    least: float
    middle: float
    largest: float

    @classmethod
    def of(cls, values: list[float]) -> LambdaSummary:
        """The summary of at least one value."""
        return cls(len(values), min(values), median(values), max(values))

    def __str__(self) -> str:
        if self.least == self.largest:
            return f"{self.middle:.4g}"
        return (
            f"{self.middle:.3g}, the median of {self.tensors} tensors "
            f"({self.least:.3g} to {self.largest:.3g})"
        )


tell: ContextVar[Callable[[LambdaSummary], None] | None] = ContextVar(
    "tell", default=None
)
"""Gets the summary of merges that are planned in this context; None prints it."""


class LambdaRecord:
    """Collects the lambdas of one merge, from any thread."""

    def __init__(self, *, quiet: bool) -> None:
        """Begin a merge, whose summary is printed unless it is quiet."""
        self.values: list[float] = []
        self._tell = tell.get() or (None if quiet else _print)

    def add(self, value: float) -> None:
        """Take note of one tensor's lambda."""
        self.values.append(value)

    def end(self) -> None:
        """Tell what was noted."""
        if self.values and self._tell is not None:
            self._tell(LambdaSummary.of(self.values))


def _print(summary: LambdaSummary) -> None:
    # The merge's progress bar is still there.
    tqdm.write(f"PCB: auto chose lambda {summary}", file=sys.stderr)


class FinalizeAndTell(FinalizeModel):  # type: ignore[misc] # pydantic: both frozen
    """mergekit's last task of a merge, which completes the output, and the summary."""

    record: Any

    def execute(  # type: ignore[override] # as mergekit's own tasks
        self, writer: TensorWriter, **saved: Any
    ) -> None:
        """Complete the output, and tell."""
        super().execute(writer, **saved)
        self.record.end()
