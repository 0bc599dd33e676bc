"""Scores of candidates: from the cache or the objective, failures included."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from mergekit_pcb.compare import result_cache as cache
from mergekit_pcb.compare.evaluation import (
    Score,
    Scores,
    error_of_difference,
    error_of_mean,
)
from mergekit_pcb.compare.plan import Plan
from mergekit_pcb.compare.progress import BarsAndLog
from mergekit_pcb.compare.results import in_few_words
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.progress import Progress
from mergekit_pcb.search.objective import Objective

IN_A_ROW = 3
"""Failures after which something else than a candidate is wrong."""


class Scored(NamedTuple):
    """The scores of a model on a part of the items, or none and why."""

    scores: Scores
    failed: str = ""


@dataclass
class Scorer:
    """Scores models once, and keeps what it found.

    Attributes:
        folder: of the search.
        objective: what scores.
        about: what all scores depend on besides the candidate and the objective.
        display: shows every step, and keeps a log.
        plan: how many evaluations are left, and how long they take.
        new: whether the last model was scored now, and not in an earlier run.
    """

    folder: Path
    objective: Objective
    about: Any
    display: BarsAndLog
    plan: Plan = field(default_factory=Plan)
    new: bool = False
    _failures: int = field(default=0)
    _failed: dict[Path, str] = field(default_factory=dict)
    _ahead: set[Path] = field(default_factory=set)
    _shapes: dict[str, Mapping[str, _Shape]] = field(default_factory=dict)

    def __call__(
        self,
        name: str,
        recipe: Any,
        part: str,
        model: Callable[[], Any],
        *,
        counts: bool = True,
    ) -> Scored:
        """Score a model.

        Args:
            name: for people.
            recipe: that it is a merge by, or what else it is.
            part: of the items.
            model: makes it.
            counts: whether a failure is one of several that stop the search.

        Raises:
            PCBError: several in a row failed.
        """
        file = self._file(name, recipe, part)
        found = self.known(name, recipe, part)
        self.new = found is None or file in self._ahead
        if found is None:
            start = time.perf_counter()
            with self.display.working_on(name) as progress:
                found, trace = scored_by(self.objective, model, part, progress)
            seconds = time.perf_counter() - start
            found = self.keep(name, recipe, part, found, seconds, trace, counts=counts)
        elif self.new:
            self._ahead.remove(file)
        else:
            self.plan.evaluated(None)
        if not found.failed:
            self._failures = 0
        self.display.done()
        return found

    def known(self, name: str, recipe: Any, part: str) -> Scored | None:
        """The scores of a model, or that it failed a moment ago; None if new."""
        file = self._file(name, recipe, part)
        if file in self._failed:
            return Scored({}, self._failed[file])
        kept = cache.load(file)
        if kept is None:
            return None
        found = Scored({t: Score(**score) for t, score in kept["scores"].items()})
        return self._like_the_first(found, part)

    def keep(
        self,
        name: str,
        recipe: Any,
        part: str,
        found: Scored,
        seconds: float,
        trace: str = "",
        *,
        ahead: bool = False,
        counts: bool = True,
    ) -> Scored:
        """Keep and log what came of a model; failures are tried again another time.

        Args:
            name: of the model.
            recipe: as for a call.
            part: of the items.
            found: its scores.
            seconds: that making and scoring it took.
            trace: a traceback if it failed.
            ahead: whether it was scored elsewhere, and is asked for later.
            counts: as for a call.

        Returns:
            The scores, or why they cannot be compared with those of other models.

        Raises:
            PCBError: several in a row failed.
        """
        file = self._file(name, recipe, part)
        found = self._like_the_first(found, part)
        known = {
            "candidate": name,
            "part": part,
            "scores": {task: asdict(score) for task, score in found.scores.items()},
            "failed": found.failed,
        }
        self.plan.evaluated(seconds)
        # One folder may hold several searches.
        by = self.objective.identity(part)
        search = cache.key_of("search", [self.about, by])
        self._log({**known, "search": search}, seconds)
        if ahead:
            self._ahead.add(file)
            self._failures *= bool(found.failed)
        if not found.failed:
            cache.save(file, known)
            return found
        self._failed[file] = found.failed
        self.display.failed(trace)
        self._failures += counts
        if self._failures == IN_A_ROW:
            raise PCBError(
                f"{IN_A_ROW} candidates in a row could not be scored, the last, "
                f"{name}: {found.failed}; {self.folder / 'log.txt'} has all of it"
            )
        return found

    def _file(self, name: str, recipe: Any, part: str) -> Path:
        identity = [self.about, recipe, self.objective.identity(part)]
        return self.folder / "runs" / f"{cache.key_of(name, identity)}.json"

    def _like_the_first(self, found: Scored, part: str) -> Scored:
        """The scores, or a failure if they are not those of the first model.

        What an evaluation returns for one model must be comparable with what it
        returned for another: the same names, directions and items.
        """
        if found.failed:
            return found
        shape = {task: _shape_of(score) for task, score in found.scores.items()}
        first = self._shapes.setdefault(part, shape)
        if shape == first:
            return found
        now, before = _differing(shape, first)
        return Scored(
            {},
            f"the evaluation returned {now}, and {before} for the first model: it must "
            "return the same scores of the same items for every model",
        )

    def _log(self, known: Mapping[str, Any], seconds: float) -> None:
        values = {task: score["value"] for task, score in known["scores"].items()}
        line = {**known, "scores": values, "seconds": round(seconds, 2)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "candidates.jsonl").open("a+b") as log:
            # A killed search, or a full disk, may have left half a line.
            if log.tell() and not _ends_a_line(log):
                log.write(b"\n")
            log.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _ends_a_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


# Whether high is good, and how many items there are, if they are known.
_Shape = tuple[bool | None, int | None]


def _shape_of(score: Score) -> _Shape:
    return score.higher_is_better, None if score.items is None else len(score.items)


def _differing(now: Mapping[str, _Shape], first: Mapping[str, _Shape]) -> list[str]:
    """What two evaluations returned, in words: names, or what differs of one."""
    if set(now) != set(first):
        return [", ".join(each) or "nothing" for each in (now, first)]
    task = next(task for task in now if now[task] != first[task])
    (high, items), (high_before, items_before) = now[task], first[task]
    if high != high_before:
        better = {True: "better high", False: "better low", None: "neither"}
        return [f"{task} as {better[high]}", f"as {better[high_before]}"]
    counts = ["no" if n is None else str(n) for n in (items, items_before)]
    return [f"{counts[0]} items of {task}", counts[1]]


def scored_by(
    objective: Objective, model: Callable[[], Any], part: str, progress: Progress
) -> tuple[Scored, str]:
    """The scores of a model, or why there are none; and a traceback.

    Args:
        objective: what scores.
        model: makes it.
        part: of the items.
        progress: is told how far it is.
    """
    try:
        return Scored(_finite(objective(model(), part, progress))), ""
    except (Exception, SystemExit) as error:  # what it calls may be a command
        return Scored({}, in_few_words(error)), traceback.format_exc()


def _finite(scores: Scores) -> Scores:
    for task, score in scores.items():
        if not math.isfinite(score.value):
            raise PCBError(f"the score on {task} is {score.value}")
    return scores


def loss(scores: Scores) -> float:
    """One number for some scores, lower is better: see `mean`."""
    value = mean(scores)
    return -value if next(iter(scores.values())).higher_is_better else value


def mean(scores: Scores) -> float:
    """One number for some scores: the mean over the tasks.

    Raises:
        PCBError: some are better high and others low, or neither.
    """
    directions = {score.higher_is_better for score in scores.values()}
    if len(directions) != 1 or None in directions:
        raise PCBError(
            "some scores are better high and others low, so that they have no mean: "
            "evaluate by one kind of score"
        )
    return math.fsum(score.value for score in scores.values()) / len(scores)


def mean_error(scores: Scores) -> float | None:
    """The standard error of the `loss`, if that of every task is known."""
    return error_of_mean([score.error for score in scores.values()])


class Gap(NamedTuple):
    """How much higher the loss of one model is than another's, and how sure that is."""

    value: float
    error: float | None


def gap(first: Scores, second: Scores) -> Gap:
    """The loss of the first less that of the second, with its standard error.

    Both answered the same items, so the error is that of the differences.
    """
    errors = [error_of_difference(first[task], second[task]) for task in first]
    return Gap(loss(first) - loss(second), error_of_mean(errors))
