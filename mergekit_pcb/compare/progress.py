"""Two progress bars of a comparison, and a log of what libraries print."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

import rich.progress
from rich.console import Console

from mergekit_pcb.compare.plan import Plan, duration
from mergekit_pcb.output.progress import Progress, new_bars

_STANDARD_ERROR = 2
_PERCENT = re.compile(r"(\d+)%\|")


class BarsAndLog:
    """Shows how many models are done, and how far the current step is."""

    def __init__(self, bars: rich.progress.Progress, log: IO[str]) -> None:
        """Take the bars, shown already, and an open file."""
        self._bars, self.log = bars, log
        self._plan = Plan()
        self._models = bars.add_task(
            "models evaluated", total=0, left="", visible=False
        )
        self._step = bars.add_task("", total=100, visible=False)

    def expect(self, steps: int, plan: Plan) -> None:
        """Say how many models there will be, and what there is to do."""
        self._plan = plan
        self._bars.update(self._models, total=steps, visible=True)
        self.log.write("\n")
        self.say(str(plan))

    def still(self, steps: int) -> None:
        """Say how many models there still are: some may not have been needed."""
        self._plan.evaluations = steps
        done = self._bars.tasks[self._models].completed
        self._bars.update(self._models, total=done + steps, left=self._left())

    @contextmanager
    def working_on(self, what: str) -> Iterator[Progress]:
        """Show a step, and send to the log what is printed meanwhile."""
        self.log.write(f"\n== {what}\n")
        self._bars.reset(self._step, description=what, total=100, visible=True)
        left = self._left()
        self._print_in_file(f"{what} ({left})" if left else what)

        def progress(percent: float) -> None:
            self._bars.update(self._step, completed=percent)

        listener = _Listener(self.log, progress)
        # Programs that are started meanwhile know of file descriptors only.
        os.dup2(self.log.fileno(), _STANDARD_ERROR)
        try:
            with redirect_stdout(listener), redirect_stderr(listener):
                yield progress
        finally:
            os.dup2(self._bars.console.file.fileno(), _STANDARD_ERROR)
        self._bars.update(self._step, visible=False)

    def scored(self, short: str, full: str, *, new: bool) -> None:
        """Show how the last model did, and the best so far.

        Args:
            short: for the bar of all models.
            full: a line, for where no bars can be drawn.
            new: whether the model was scored now.
        """
        self._bars.update(self._models, description=short)
        if new:
            self.log.write(f"{full}\n")
            self._print_in_file(full)

    def say(self, text: str) -> None:
        """Show a line above the bars, and log it."""
        self.log.write(f"{text}\n")
        if not self._bars.disable:
            self._bars.console.print(
                text, markup=False, highlight=False, soft_wrap=True
            )

    def done(self) -> None:
        """Count a model."""
        self._bars.update(self._models, advance=1, left=self._left())

    def _print_in_file(self, text: str) -> None:
        # Bars are drawn in place, which a file is not.
        if not self._bars.disable and not self._bars.console.is_terminal:
            self._bars.console.print(text, markup=False, soft_wrap=True)

    def _left(self) -> str:
        left = self._plan.left
        return f"{duration(left)} left" if left else ""

    def failed(self, trace: str) -> None:
        """Log a traceback."""
        self.log.write(trace)


@contextmanager
def bars_and_log(folder: Path, *, quiet: bool) -> Iterator[BarsAndLog]:
    """Open the bars on standard error, and ``log.txt`` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        # A copy, because it will mean something else during each step.
        os.fdopen(os.dup(_STANDARD_ERROR), "w", encoding="utf-8") as screen,
        (folder / "log.txt").open(
            "a", encoding="utf-8", errors="backslashreplace", buffering=1
        ) as log,
        new_bars(Console(file=screen), hidden=quiet) as bars,
    ):
        yield BarsAndLog(bars, log)


class _Listener(io.TextIOBase):
    """Writes to a log, and reads percentages from the progress bars of libraries."""

    def __init__(self, log: IO[str], progress: Progress) -> None:
        self._log, self._progress = log, progress

    def write(self, text: str) -> int:
        if percents := _PERCENT.findall(text):
            self._progress(float(percents[-1]))
        else:
            self._log.write(text)
        return len(text)
