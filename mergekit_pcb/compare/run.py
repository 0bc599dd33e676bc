"""The run of a comparison: results that its folder already has are not repeated."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mergekit.common import ModelReference

from mergekit_pcb.compare.candidates import Candidate
from mergekit_pcb.compare.evaluation import ALL, TEST, VALIDATION, Evaluation
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.plan import Plan
from mergekit_pcb.compare.progress import BarsAndLog
from mergekit_pcb.compare.results import Merge, Results, in_few_words
from mergekit_pcb.compare.scoreboard import BASE, EXPERT, MERGE, Row, Scoreboard, Tried
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import AUTO

KEEP = ("best", "all", "none")


class Ranked(NamedTuple):
    """A candidate, how it did, and what it is ranked by."""

    candidate: Candidate
    tried: Tried
    rank_score: float


@dataclass(frozen=True)
class Comparison:
    """A comparison to be run in a folder.

    Attributes:
        folder: for recipes, merged models and the cache of results.
        inputs: base and experts.
        candidates: the merges, those of one name side by side.
        evaluation: scores a model.
        merge: runs a recipe.
        merge_options: what else a merge depends on, for ``json.dumps``.
        keep: which merged models stay, one of `KEEP`.
        display: shows every step, and keeps a log.
        plan: what is left to do; see `make_plan`.
        failures: of `Results`.
    """

    folder: Path
    inputs: Inputs
    candidates: Sequence[Candidate]
    evaluation: Evaluation
    merge: Merge
    merge_options: Any
    keep: str
    display: BarsAndLog
    plan: Plan = field(default_factory=Plan)
    failures: dict[Path, str] = field(default_factory=dict)

    @property
    def results(self) -> Results:
        """What the folder has, and how to make what it lacks."""
        return Results(
            self.folder,
            self.inputs,
            self.evaluation,
            self.merge,
            self.merge_options,
            self.display,
            self.plan,
            self.failures,
        )

    @property
    def groups(self) -> list[list[Candidate]]:
        """The candidates of every row."""
        if not self.evaluation.can_rank:
            return [[candidate] for candidate in self.candidates]
        by_name = groupby(self.candidates, key=lambda candidate: candidate.name)
        return [list(group) for _, group in by_name]

    @property
    def _chooses(self) -> bool:
        return len(self.groups) < len(self.candidates)

    @property
    def chooses_apart(self) -> bool:
        """Whether other items choose settings than are shown."""
        return self._chooses and self.evaluation.splits

    @property
    def parts(self) -> tuple[str, str]:
        """The part of the items that chooses settings, and the part that is shown."""
        return (VALIDATION, TEST) if self.chooses_apart else (ALL, ALL)

    @property
    def steps(self) -> int:
        """How many times a model will be evaluated."""
        models = 1 + len(self.inputs.experts)
        again = models + len(self.groups) if self.chooses_apart else 0
        return models + len(self.candidates) + again

    @property
    def models_at_a_time(self) -> int:
        """How many merged models there may be on disk besides those there now."""
        results, choosing = self.results, self.parts[0]
        if self.keep == "all":
            return sum(not results.merged_folder(c).exists() for c in self.candidates)
        if all(results.has(c, choosing) for c in self.candidates):
            return 0
        best_of_all = self.keep == "best" and len(self.groups) > 1
        return 1 + self._chooses + best_of_all

    def make_plan(self) -> None:
        """Count what is to be done, with the times of what the folder has."""
        plan, results, parts = self.plan, self.results, dict.fromkeys(self.parts)
        done = [
            results.has((name, model), part)
            for part in parts
            for _, name, model in self.models
        ]
        choosing, showing = self.parts
        scored = [results.has(c, choosing) for c in self.candidates]
        plan.merges = sum(
            not known and not results.merged_folder(candidate).exists()
            for candidate, known in zip(self.candidates, scored, strict=True)
        )
        done += scored
        if self.chooses_apart:
            done += [any(results.has(c, showing) for c in g) for g in self.groups]
        plan.known = sum(done)
        plan.evaluations = len(done) - plan.known
        plan.merge_seconds += results.seconds("merge")
        plan.evaluation_seconds += results.seconds("score")

    @property
    def models(self) -> list[tuple[str, str, ModelReference]]:
        """Base and experts: kind of row, name, model."""
        experts = [(EXPERT, *named) for named in self.inputs.experts.items()]
        return [(BASE, BASE, self.inputs.base), *experts]

    def run(self) -> tuple[list[Row], list[Row]]:
        """Merge and evaluate what has not been.

        Returns:
            The rows of the table, and base and experts on the items that choose.

        Raises:
            PCBError: not one of the inputs could be evaluated.
        """
        choosing, showing = self.parts
        references = self.input_rows(choosing)
        rows = [*references] if showing == choosing else self.input_rows(showing)
        if all(row.failed for row in rows):
            raise PCBError(f"no model could be evaluated: {rows[0].failed}")
        best: Ranked | None = None
        for group in self.groups:
            row, best_of_group = self._best_of(group, references)
            rows.append(row)
            if best_of_group:
                # The merge that is kept is the one that the report calls the best.
                shown = Scoreboard(rows).rank_score(row)
                score = -math.inf if shown is None else shown
                best_of_group = best_of_group._replace(rank_score=score)
            # Where nothing is good or bad there is no best.
            ranks = self.keep == "best" and self.evaluation.can_rank
            if ranks:
                best = self._better(best, best_of_group)
            elif self.keep != "all" and best_of_group:
                self.results.discard(best_of_group.candidate)
        if best is not None and (reason := self._keep(best.candidate)):
            kept = f"merged/{self.results.key_of(best.candidate)}"
            rows = [
                replace(row, model="", lost=reason) if row.model == kept else row
                for row in rows
            ]
        return rows, references

    def _keep(self, candidate: Candidate) -> str:
        """Make the merge that is kept, if it is not there; returns why it cannot be."""
        try:
            self.results.merged(candidate)
        except Exception as error:  # the scores of hours are known
            self.display.failed(traceback.format_exc())
            return in_few_words(error)
        return ""

    def input_rows(self, part: str) -> list[Row]:
        """Base and experts, evaluated."""
        rows = []
        for kind, name, model in self.models:
            scores, failed = self.results.of_input(name, model, part)
            rows.append(Row(kind, name, scores, failed=failed))
        return rows

    def _best_of(
        self, group: Sequence[Candidate], references: Sequence[Row]
    ) -> tuple[Row, Ranked | None]:
        """Score all settings; return a row for the best, whose merged model is kept."""
        choosing, showing = self.parts
        tried: list[Tried] = []
        best: Ranked | None = None
        for candidate in group:
            attempt = self._try(candidate, choosing)
            tried.append(attempt)
            if not attempt.failed:
                score = rank_score(references, candidate, attempt)
                best = self._better(best, Ranked(candidate, attempt, score))
        if best is None:
            return self._merge_row(group[0], tried[0], tried), None
        tried = [replace(each, chosen=each is best.tried) for each in tried]
        shown = best.tried
        if self.chooses_apart:
            shown = self._try(best.candidate, showing)
        return self._merge_row(best.candidate, shown, tried), best

    def _better(self, best: Ranked | None, other: Ranked | None) -> Ranked | None:
        """The better of the two, of equals the first; the other's model may go."""
        if best is None or other is None:
            return best or other
        if other.rank_score > best.rank_score:
            best, other = other, best
        if self.keep != "all":
            self.results.discard(other.candidate)
        return best

    def _merge_row(
        self, winner: Candidate, shown: Tried, tried: Sequence[Tried]
    ) -> Row:
        key, cost = self.results.key_of(winner), self.results.cost_of(winner)
        return Row(
            MERGE,
            winner.name,
            shown.scores,
            method=winner.method,
            label=shown.label,
            note=winner.note,
            failed=shown.failed,
            seconds=cost.get("seconds"),
            peak_bytes=cost.get("peak_bytes"),
            tried=tried,
            given=winner.given,
            recipe=f"recipes/{key}.yml",
            model=f"merged/{key}",
        )

    def _try(self, candidate: Candidate, part: str) -> Tried:
        scores, failed = self.results.of_merge(
            candidate, part, always_merge=self.keep == "all"
        )
        label = candidate.label
        if auto := self.results.cost_of(candidate).get("auto"):
            label = label.replace(f"lambda {AUTO}", f"lambda {AUTO} = {auto}")
        return Tried(label, dict(candidate.swept), scores, failed)


def rank_score(references: Sequence[Row], candidate: Candidate, tried: Tried) -> float:
    """What settings are ranked by: higher is better.

    Args:
        references: base and experts on the same items.
        candidate: the merge.
        tried: its scores.
    """
    row = Row(MERGE, candidate.name, tried.scores)
    score = Scoreboard([*references, row]).rank_score(row)
    return -math.inf if score is None else score
