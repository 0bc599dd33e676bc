"""Scores of a suite as `mergekit_pcb.compare` takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.suites.suite import Place, Suite, digest
from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.compare.evaluation import TEST, VALIDATION, Score, standard_error
from mergekit_pcb.output.progress import Progress


@dataclass
class SuiteEvaluation:
    """Scores on tasks of a suite; scores of base and fine-tunes are kept.

    Attributes:
        suite: whose models are scored.
        place: whose device it is done on.
        shown: tasks whose test items are shown.
        choosing: tasks whose validation items choose settings.
    """

    splits = True
    can_rank = True

    suite: Suite
    place: Place
    shown: Sequence[str]
    choosing: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.choosing = self.choosing or self.shown
        self.what = f"{self.suite.metric} on items nothing was trained on"
        self.how_chosen = f"validation items of {', '.join(self.choosing)} chose"

    def identity(self, part: str) -> Any:
        """Tasks, split and device."""
        tasks = self.choosing if part == VALIDATION else self.shown
        return [self.suite.name, list(tasks), _split(part), self.place.device]

    def __call__(
        self, model: Path, part: str, progress: Progress
    ) -> Mapping[str, Score]:
        """Score the model in a folder."""
        tasks = self.choosing if part == VALIDATION else self.shown
        state = None
        scores = {}
        for number, task in enumerate(tasks, start=1):
            kept = self._kept(model, task, part)
            if kept and kept.exists():
                items = json.loads(kept.read_text())
            else:
                state = state or self.suite.state(model)
                items = self.suite.scores(state, task, _split(part))
                if kept:
                    write_file(kept, json.dumps(items))
            scores[task] = Score(
                fmean(items),
                self.suite.metric,
                self.suite.higher_is_better,
                standard_error(items),
                items,
            )
            progress(100 * number / len(tasks))
        return scores

    def _kept(self, model: Path, task: str, part: str) -> Path | None:
        """Where the items of an input are, which many comparisons have in common."""
        inputs = self.place.models.resolve(), self.place.packages.resolve()
        if not any(model.resolve().is_relative_to(folder) for folder in inputs):
            return None
        about = digest([str(model.resolve()), self.place.device])
        name = f"{self.suite.name}-{task}-{_split(part)}-{about}.json"
        return self.place.work / "scores" / name


def _split(part: str) -> str:
    # Where nothing is chosen, all items are asked for: those of the test are shown.
    return part if part == VALIDATION else TEST
