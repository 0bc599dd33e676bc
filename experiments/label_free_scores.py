"""Scores of weights in memory: agreement with the experts, and accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from experiments.suites.suite import State, percent_right
from mergekit_pcb.compare.evaluation import TEST, VALIDATION, Score, standard_error

# Inputs of each expert; the validation items give several disjoint draws of the fewer.
COUNTS = (4, 8, 16, 32, 64)
# Inputs that a search for weights looks at.
INPUTS = 32

# On whose inputs merge and expert are compared, where it is not the expert's own.
NEXT, ONE, STRANGER = "the next expert's", "one expert's", "those of no expert"
WHOSE = (NEXT, ONE, STRANGER)


class Scorer:
    """Scores of a suite's models on the tasks of their experts.

    Args:
        suite: of classification.
        tasks: in the order of the experts.
        models: the experts.
    """

    def __init__(self, suite: Any, tasks: Sequence[str], models: Sequence[State]):
        self._suite, self._tasks = suite, tasks
        every = (*suite.tasks, *suite.held_out)
        self._stranger = next(task for task in every if task not in tasks)
        self._expected = {
            (task, inputs): suite.logits(task, features).log_softmax(1)
            for task, model in zip(tasks, models, strict=True)
            for inputs, features in self._inputs(model, COUNTS[-1])
        }

    def __call__(self, state: State) -> dict[str, Any]:
        """Means over the experts of what may choose.

        Returns:
            ``agreement``: bits, for each number of inputs and draw; ``whose``: the
            same with inputs that are not the expert's own; and percent right of the
            validation items.
        """
        features = dict(self._inputs(state))
        own = [self._bits(task, task, features) for task in self._tasks]
        agreement = {
            str(count): [
                round(fmean(fmean(bits[i : i + count]) for bits in own), 6)
                for i in range(0, COUNTS[-1], count)
            ]
            for count in COUNTS
        }
        right = [self._right(task, features[task]) for task in self._tasks]
        return {
            "agreement": agreement,
            "whose": self._whose(features),
            VALIDATION: round(fmean(right), 4),
        }

    def by_agreement(self, state: State) -> dict[str, Score]:
        """Bits from each expert, over its first `INPUTS` inputs."""
        found = {}
        for task in self._tasks:
            features = self._suite.features(state, task, VALIDATION, INPUTS)
            items = self._bits(task, task, {task: features})
            error = standard_error(items)
            found[task] = Score(fmean(items), "bits", False, error, items)
        return found

    def by_labels(self, state: State) -> dict[str, Score]:
        """Percent right, over all validation items."""
        found = {}
        for task in self._tasks:
            items = self._suite.scores(state, task, VALIDATION)
            error = standard_error(items)
            found[task] = Score(fmean(items), "accuracy", True, error, items)
        return found

    def shown(self, state: State) -> float:
        """Percent right of the test items, to four places."""
        means = [fmean(self._suite.scores(state, t, TEST)) for t in self._tasks]
        return round(fmean(means), 4)

    def _inputs(
        self, state: State, count: int | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Features of the validation inputs of each task, and of one more."""
        for task in self._tasks:
            yield task, self._suite.features(state, task, VALIDATION, count)
        task = self._stranger
        yield task, self._suite.features(state, task, VALIDATION, COUNTS[-1])

    def _whose(self, features: Mapping[str, torch.Tensor]) -> dict[str, list[float]]:
        following = [*self._tasks[1:], self._tasks[0]]
        draws = {
            NEXT: [following],
            ONE: [[task] * len(self._tasks) for task in self._tasks],
            STRANGER: [[self._stranger] * len(self._tasks)],
        }
        return {
            whose: [
                round(
                    fmean(
                        fmean(self._bits(task, inputs, features))
                        for task, inputs in zip(self._tasks, each, strict=True)
                    ),
                    6,
                )
                for each in several
            ]
            for whose, several in draws.items()
        }

    def _bits(
        self, task: str, inputs: str, features: Mapping[str, torch.Tensor]
    ) -> list[float]:
        """KL(expert || weights) on each of the first inputs."""
        expected = self._expected[task, inputs]
        own = self._suite.logits(task, features[inputs][: len(expected)])
        expected = expected[: len(own)]
        bits = (expected.exp() * (expected - own.log_softmax(1))).sum(1) / math.log(2)
        return [float(value) for value in bits]

    def _right(self, task: str, features: torch.Tensor) -> float:
        logits = self._suite.logits(task, features)
        return fmean(percent_right(logits, self._suite.labels(task, VALIDATION)))
