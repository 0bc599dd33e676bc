"""The run of a comparison: results that its folder already has are not repeated."""

from __future__ import annotations

import math
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mergekit.common import ModelReference

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.compare import result_cache as cache
from mergekit_pcb.compare.candidates import Candidate, Inputs
from mergekit_pcb.compare.evaluation import (
    ALL,
    TEST,
    VALIDATION,
    Evaluation,
    Score,
    Scores,
)
from mergekit_pcb.compare.merge_process import Cost
from mergekit_pcb.compare.plan import Plan, timed
from mergekit_pcb.compare.progress import BarsAndLog
from mergekit_pcb.compare.scoreboard import BASE, EXPERT, MERGE, Row, Scoreboard, Tried
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import AUTO

KEEP = ("best", "all", "none")
# Of the reason why a row has no scores.
_MOST_CHARACTERS = 600

# Merges a recipe file into a folder that is then complete.
Merge = Callable[[Path, Path], Cost]


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
        if self.keep == "all":
            return sum(not self.merged_folder(c).exists() for c in self.candidates)
        if all(self._is_scored(c, self.parts[0]) for c in self.candidates):
            return 0
        best_of_all = self.keep == "best" and len(self.groups) > 1
        return 1 + self._chooses + best_of_all

    def make_plan(self) -> None:
        """Count what is to be done, with the times of what the folder has."""
        plan, parts = self.plan, dict.fromkeys(self.parts)
        inputs = [(BASE, self.inputs.base), *self.inputs.experts.items()]
        done = [
            self._score_file(name, cache.identity_of(model), part).exists()
            for part in parts
            for name, model in inputs
        ]
        choosing, showing = self.parts
        scored = [self._is_scored(c, choosing) for c in self.candidates]
        plan.merges = sum(
            not known and not self.merged_folder(candidate).exists()
            for candidate, known in zip(self.candidates, scored, strict=True)
        )
        done += scored
        if self.chooses_apart:
            done += [any(self._is_scored(c, showing) for c in g) for g in self.groups]
        plan.known = sum(done)
        plan.evaluations = len(done) - plan.known
        for kind, seconds in (
            ("merge", plan.merge_seconds),
            ("score", plan.evaluation_seconds),
        ):
            found = map(cache.load, (self.folder / "runs").glob(f"{kind}-*.json"))
            seconds += [each["seconds"] for each in found if each and "seconds" in each]

    def run(self) -> tuple[list[Row], list[Row]]:
        """Merge and evaluate what has not been.

        Returns:
            The rows of the table, and base and experts on the items that choose.

        Raises:
            PCBError: not one of the inputs could be evaluated.
        """
        choosing, showing = self.parts
        references = self._input_rows(choosing)
        rows = [*references] if showing == choosing else self._input_rows(showing)
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
            if self.keep == "none" and best_of_group:
                self._discard(best_of_group.candidate)
            elif self.keep == "best":
                best = self._better(best, best_of_group)
        if best is not None:
            self._merged(best.candidate)
        return rows, references

    def merged_folder(self, candidate: Candidate) -> Path:
        """Where a merged model is, or would be."""
        return self.folder / "merged" / self._key(candidate)

    def _input_rows(self, part: str) -> list[Row]:
        models = [(BASE, BASE, self.inputs.base)]
        models += [(EXPERT, name, model) for name, model in self.inputs.experts.items()]
        rows = []
        for kind, name, model in models:
            identity = cache.identity_of(model)
            find = partial(self._input_folder, name, model)
            scores, failed = self._scores_or_reason(name, "", identity, part, find)
            rows.append(Row(kind, name, scores, failed=failed))
        return rows

    def _input_folder(self, name: str, model: ModelReference) -> Path:
        if model.lora is None and Path(model.model.path).exists():
            return self.inputs.find(model)
        # It may have to be downloaded, or its adapter merged.
        with self.display.working_on(f"opening {name}"):
            return self.inputs.find(model)

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
                row = Row(MERGE, candidate.name, attempt.scores)
                score = Scoreboard([*references, row]).rank_score(row)
                score = -math.inf if score is None else score
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
            self._discard(other.candidate)
        return best

    def _merge_row(
        self, winner: Candidate, shown: Tried, tried: Sequence[Tried]
    ) -> Row:
        key = self._key(winner)
        cost = cache.load(self._result_file("merge", key)) or {}
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
            recipe=f"recipes/{key}.yml",
            model=f"merged/{key}",
        )

    def _try(self, candidate: Candidate, part: str) -> Tried:
        # Also where nothing is merged: somebody may have changed the file.
        self._write_recipe(candidate)
        scores, failed = self._scores_or_reason(
            candidate.name,
            candidate.label,
            self._merge_identity(candidate),
            part,
            partial(self._merged, candidate),
            always_find=self.keep == "all",
        )
        facts = cache.load(self._result_file("merge", self._key(candidate))) or {}
        label = candidate.label
        if auto := facts.get("auto"):
            label = label.replace(f"lambda {AUTO}", f"lambda {AUTO} = {auto}")
        return Tried(label, dict(candidate.swept), scores, failed)

    def _is_scored(self, candidate: Candidate, part: str) -> bool:
        identity = self._merge_identity(candidate)
        return self._score_file(candidate.name, identity, part).exists()

    def _score_file(self, name: str, identity: Any, part: str) -> Path:
        about = self._about_score(identity, part)
        return self._result_file("score", cache.key_of(name, about))

    def _about_score(self, identity: Any, part: str) -> list[Any]:
        return [identity, self.evaluation.identity(part), cache.versions()]

    def _scores_or_reason(
        self,
        name: str,
        label: str,
        identity: Any,
        part: str,
        find: Callable[[], Path],
        *,
        always_find: bool = False,
    ) -> tuple[Scores, str]:
        """The scores of a model, or no scores and why; from the cache if possible."""
        file = self._score_file(name, identity, part)
        model = _titled(name, label)
        timed_before = len(self.plan.evaluation_seconds)
        try:
            if always_find:
                find()
            known = cache.load(file)
            if known is None:
                folder = find()
                with (
                    self.display.working_on(f"evaluating {model}") as progress,
                    timed(self.plan.evaluated) as seconds,
                ):
                    scores = self.evaluation(folder, part, progress)
                known = {
                    "model": model,
                    "part": part,
                    "scores": {task: _plain(score) for task, score in scores.items()},
                    "seconds": seconds(),
                    "about": self._about_score(identity, part),
                }
                cache.save(file, known)
        except Exception as error:
            if len(self.plan.evaluation_seconds) == timed_before:
                self.plan.evaluated(None)
            return {}, self._in_few_words(error)
        finally:
            self.display.done()
        return {task: Score(**score) for task, score in known["scores"].items()}, ""

    def _merged(self, candidate: Candidate) -> Path:
        key, folder = self._key(candidate), self.merged_folder(candidate)
        cost_file = self._result_file("merge", key)
        known = cache.load(cost_file)
        if known is not None and folder.exists():
            there = cache.fingerprint(folder)
            if all(file in there for file in known["files"]):
                return folder
        # A merge that was interrupted between the model and its facts, or changed.
        shutil.rmtree(folder, ignore_errors=True)
        recipe = self._recipe_file(candidate)
        step = f"merging {_titled(candidate.name, candidate.label)}"
        with self.display.working_on(step), timed(self.plan.merged):
            cost = self.merge(recipe, folder)
        # Without the start of what merges, which happens once.
        self.plan.merge_seconds[-1] = cost.seconds
        facts = {
            **cost._asdict(),
            "files": cache.fingerprint(folder),
            "about": self._merge_identity(candidate),
        }
        cache.save(cost_file, facts)
        return folder

    def _recipe_file(self, candidate: Candidate) -> Path:
        return self.folder / "recipes" / f"{self._key(candidate)}.yml"

    def _write_recipe(self, candidate: Candidate) -> None:
        file = self._recipe_file(candidate)
        text = yaml.safe_dump(candidate.recipe, sort_keys=False, allow_unicode=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write_file(file, text)

    def _discard(self, candidate: Candidate) -> None:
        shutil.rmtree(self.merged_folder(candidate), ignore_errors=True)

    def _merge_identity(self, candidate: Candidate) -> list[Any]:
        found = [cache.identity_of(model) for model in self.inputs.models]
        return [candidate.recipe, found, self.merge_options, cache.versions()]

    def _result_file(self, kind: str, key: str) -> Path:
        return self.folder / "runs" / f"{kind}-{key}.json"

    def _key(self, candidate: Candidate) -> str:
        return cache.key_of(candidate.name, self._merge_identity(candidate))

    def _in_few_words(self, error: Exception) -> str:
        self.display.failed(traceback.format_exc())
        if isinstance(error, PCBError):
            words = " ".join(error.message.split())
        else:
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        words = words.rstrip(": ")
        cause = " ".join(str(error.__cause__ or "").split())
        if cause not in words:
            words += f", because {cause}"
        # The cause stands at the beginning, or at the end of a message of many lines.
        half = _MOST_CHARACTERS // 2
        short = len(words) <= _MOST_CHARACTERS
        return words if short else f"{words[:half]} … {words[-half:]}"


def _titled(name: str, label: str) -> str:
    return f"{name} ({label})" if label else name


def _plain(score: Score) -> dict[str, Any]:
    items = score.items and [float(f"{item:.7g}") for item in score.items]
    return {**asdict(score), "items": items}
