"""The search: a grid, then finer lambdas, then weights where there is a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from mergekit_pcb.compare import result_cache as cache
from mergekit_pcb.compare.evaluation import ALL, TEST, VALIDATION
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes import edits
from mergekit_pcb.search.bench import Bench
from mergekit_pcb.search.groups import COUNT, Groups
from mergekit_pcb.search.others import Merger, OtherMerge
from mergekit_pcb.search.outcome import AnyCandidate, Outcome, Tried, number
from mergekit_pcb.search.scores import IN_A_ROW, Scored, Scorer, gap
from mergekit_pcb.search.space import (
    PCB,
    RECIPE,
    TASK_ARITHMETIC,
    Candidate,
    Setting,
    around,
    recipe_of,
    rounded,
    settings,
)
from mergekit_pcb.search.weights import Budget, tune

# For the best setting of each method: how often lambdas beside the best are tried, and
# how far beyond the last one.
_ROUNDS, _BEYOND = 2, 1.3


class Ahead(Protocol):
    """Scores candidates at once, so that the search finds their scores known."""

    def settings(self, search: Search, settings: Sequence[Setting]) -> None:
        """Find the lambda of each setting, and score the candidates around it.

        The base, the start and candidates of other methods are scored as well.
        """

    def candidates(
        self, search: Search, candidates: Sequence[AnyCandidate], part: str
    ) -> None:
        """Score candidates on a part of the items."""


@dataclass
class Search:
    """A search to be run.

    Attributes:
        start: a recipe for pcb.
        scorer: scores models.
        bench: makes them.
        budget: for the weights; None leaves them.
        groups: of tensors, if each model gets a weight for each.
        others: candidates of other methods.
        merger: makes these.
        ahead: scores several candidates at once, elsewhere; None leaves that to us.
    """

    start: edits.Recipe
    scorer: Scorer
    bench: Bench
    budget: Budget | None = None
    groups: Groups | None = None
    others: Sequence[OtherMerge] = ()
    merger: Merger | None = None
    ahead: Ahead | None = None
    _tried: list[Tried] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many models will be evaluated, at most."""
        grid = sum(len(around(setting, 1.0)) for setting in settings())
        finer = 2 * _ROUNDS * 2
        return 2 + grid + finer + self._steps_after_grid

    @property
    def _steps_after_grid(self) -> int:
        weights = self.budget.evaluations if self.budget else 0
        shown = 3 if self.parts[0] != self.parts[1] else 0
        return len(self.others) + weights + shown

    @property
    def parts(self) -> tuple[str, str]:
        """The part of the items that chooses, and the part that is shown."""
        return (VALIDATION, TEST) if self.scorer.objective.splits else (ALL, ALL)

    def run(self) -> Outcome:
        """Score all candidates, and choose.

        Raises:
            PCBError: nothing could be scored, or several in a row.
        """
        choosing, showing = self.parts
        if self.ahead is not None:
            self.ahead.settings(self, settings())
        base = self.scorer("base", "base", choosing, self.bench.base_model)
        self._try(Candidate(Setting(RECIPE)))
        for setting in settings():
            for candidate in around(setting, self._automatic(setting)):
                self._try(candidate)
        for method in (PCB, TASK_ARITHMETIC):
            for _ in range(_ROUNDS):
                self._refine(method)
        # Some lambdas beside the best may have been known.
        self.scorer.display.still(self._steps_after_grid)
        notes = list(self._try_others())
        equal = best = min(self._tried, key=lambda tried: tried.loss)
        if not math.isfinite(equal.loss):
            raise PCBError(f"no candidate could be scored: {equal.scored.failed}")
        if self.budget is not None:
            weighed, of_weights = self._with_weights(self.budget)
            notes += of_weights
            best = min(equal, weighed, key=lambda tried: tried.loss)
        start = self._tried[0]
        shown = {t.candidate: t.scored for t in (start, equal, best)}
        self.scorer.display.still(len(shown) if showing != choosing else 0)
        if showing != choosing:
            if self.ahead is not None:
                self.ahead.candidates(self, list(shown), showing)
            shown = {c: self._score(c, showing) for c in shown}
        return Outcome(self._tried, best, equal, base, shown, showing, notes)

    def _try_others(self) -> Iterator[str]:
        """Try the candidates of each other method; yields why one was given up.

        Each costs a merge, and a method that fails often fails under all settings.
        """
        for method, group in groupby(self.others, lambda other: other.method):
            settings_of_method, failed = list(group), 0
            for done, other in enumerate(settings_of_method, 1):
                reason = self._try(other).scored.failed
                failed = failed + 1 if reason else 0
                left = len(settings_of_method) - done
                if failed == IN_A_ROW and left and self.ahead is None:
                    yield (
                        f"{method} failed {failed} times in a row, and {left} more of "
                        f"its settings were not tried: {reason}."
                    )
                    break

    def _try(self, candidate: AnyCandidate) -> Tried:
        known = next((t for t in self._tried if t.candidate == candidate), None)
        if known is not None:
            return known
        tried = Tried(candidate, self._score(candidate, self.parts[0]))
        self._tried.append(tried)
        self._show(tried)
        return tried

    def _show(self, tried: Tried) -> None:
        best = min(self._tried, key=lambda each: each.loss)
        reason = tried.scored.failed
        last = "failed" if reason else number(tried)
        told = f"{last}: {reason}" if reason else last
        so_far = "none"
        if not best.scored.failed:
            so_far = f"{number(best)}, {best.candidate}"
        self.scorer.display.scored(
            f"last {last}, best {number(best)}",
            f"{tried.candidate}: {told}; best so far {so_far}",
            new=self.scorer.new,
        )

    def _score(self, candidate: AnyCandidate, part: str) -> Scored:
        name, recipe = str(candidate), self.identity_of(candidate)
        if isinstance(candidate, OtherMerge):
            merger = self.merger
            assert merger is not None, "there is one where there are other methods"
            return self.scorer(
                name, recipe, part, lambda: merger(candidate), counts=False
            )
        return self.scorer(name, recipe, part, lambda: self.bench.model_of(candidate))

    def identity_of(self, candidate: AnyCandidate) -> Any:
        """What a candidate's scores depend on, besides models and objective."""
        if isinstance(candidate, OtherMerge):
            return [candidate.recipe, self.merger and self.merger.options]
        return recipe_of(self.start, candidate)

    def _automatic(self, setting: Setting) -> float:
        """The lambda of `auto` for the whole model, from the cache if possible."""
        found = self.known_automatic(setting)
        if found is None:
            with self.scorer.display.working_on(f"contributions of {setting}"):
                found = self.bench.contributions(setting).automatic
            self.keep_automatic(setting, found)
        return found

    def known_automatic(self, setting: Setting) -> float | None:
        """The lambda of `auto` under a setting, if it is known."""
        known = cache.load(self._file_of_lambda(setting))
        return None if known is None else float(known["lambda"])

    def keep_automatic(self, setting: Setting, found: float) -> None:
        """Keep the lambda of `auto` under a setting."""
        known = {"setting": str(setting), "lambda": found}
        cache.save(self._file_of_lambda(setting), known)

    def _file_of_lambda(self, setting: Setting) -> Path:
        recipe = recipe_of(self.start, Candidate(setting))
        key = cache.key_of("lambda", [self.scorer.about, recipe])
        return self.scorer.folder / "runs" / f"{key}.json"

    def _refine(self, method: str) -> None:
        """Try lambdas beside the best one of a method's best setting."""
        own = [t for t in self._tried if t.candidate.setting.method == method]
        best = min(own, key=lambda tried: tried.loss)
        setting = best.candidate.setting
        scales = sorted(
            t.candidate.scale
            for t in own
            if t.candidate.setting == setting and t.candidate.scale is not None
        )
        assert best.candidate.scale is not None, "candidates of the grid have one"
        finer = [Candidate(setting, s) for s in beside(scales, best.candidate.scale)]
        if self.ahead is not None:
            self.ahead.candidates(self, finer, self.parts[0])
        for candidate in finer:
            self._try(candidate)

    def _with_weights(self, budget: Budget) -> tuple[Tried, list[str]]:
        """The best that can be tuned with other weights, if that is more than noise."""
        can_be_tuned = [
            t
            for t in self._tried
            if isinstance(t.candidate, Candidate)
            and t.candidate.setting.method != RECIPE
        ]
        equal = min(can_be_tuned, key=lambda tried: tried.loss)
        candidate = equal.candidate
        assert isinstance(candidate, Candidate), "chosen above"
        if not math.isfinite(equal.loss):
            return equal, ["No candidate could be scored whose weights can be tuned."]

        setting, scale, groups = candidate.setting, candidate.scale, self.groups

        def losses_of(generation: Sequence[tuple[float, ...]]) -> list[float]:
            own = [Candidate(setting, scale, factors, groups) for factors in generation]
            if self.ahead is not None:
                self.ahead.candidates(self, own, self.parts[0])
            return [self._try(each).loss for each in own]

        count = len(self.bench.sources.models) * (COUNT if self.groups else 1)
        found = tune(losses_of, count, budget, equal.scored.scores)
        self.scorer.display.say(found)
        weighed = [t for t in self._tried if t.candidate.factors]
        best = min(weighed, key=lambda tried: tried.loss)
        notes = [found]
        if not math.isfinite(best.loss):
            return equal, notes
        gain = gap(equal.scored.scores, best.scored.scores)
        if gain.value <= 2 * (gain.error or 0.0):
            error = "" if gain.error is None else f" ± {gain.error:.2g}"
            what = f"gained {gain.value:.2g}{error}"
            why = ", within twice its standard error"
            if gain.value < 0:
                what, why = f"lost {-gain.value:.2g}{error} at least", ""
            notes.append(
                f"Other weights {what} on the items that choose{why}, so the weights "
                "of the recipe stay."
            )
            return equal, notes
        return best, notes


def beside(scales: Sequence[float], best: float) -> list[float]:
    """Lambdas between the best and its neighbours, or beyond the last one.

    Example:
        >>> beside([0.7, 1.0, 1.4], 1.0), beside([0.7, 1.0, 1.4], 1.4)
        ([0.8367, 1.183], [1.183, 1.82])
    """
    beyond = [scales[0] / _BEYOND, *scales, scales[-1] * _BEYOND]
    place = beyond.index(best, 1)
    found = []
    for other in (beyond[place - 1], beyond[place + 1]):
        new = other if other not in scales else math.sqrt(other * best)
        found.append(rounded(new))
    return found
