"""Merges and scores of a comparison, each made once and then read from its folder."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mergekit.common import ModelReference

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.compare import result_cache as cache
from mergekit_pcb.compare.candidates import Candidate
from mergekit_pcb.compare.evaluation import Evaluation, Score, Scores
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.merge_process import Cost
from mergekit_pcb.compare.plan import Plan, timed
from mergekit_pcb.compare.progress import BarsAndLog
from mergekit_pcb.errors import PCBError

# Of the reason why a row has no scores.
_MOST_CHARACTERS = 600

# What has scores: a merge, or base or expert by name.
Model = Candidate | tuple[str, ModelReference]

# Merges a recipe file into a folder that is then complete.
Merge = Callable[[Path, Path], Cost]


@dataclass(frozen=True)
class Results:
    """What the folder of a comparison has, and how to make what it lacks.

    Attributes:
        folder: for recipes, merged models and the cache of results.
        inputs: base and experts.
        evaluation: scores a model.
        merge: runs a recipe.
        merge_options: what else a merge depends on, for ``json.dumps``.
        display: shows every step, and keeps a log.
        plan: what is left to do.
        failures: why there are no scores, by the file that they would be in, of models
            that were tried elsewhere.
    """

    folder: Path
    inputs: Inputs
    evaluation: Evaluation
    merge: Merge
    merge_options: Any
    display: BarsAndLog
    plan: Plan
    failures: dict[Path, str] = field(default_factory=dict)

    def score_file(self, model: Model, part: str) -> Path:
        """Where the scores of a model are, or would be."""
        name, identity = self._name_and_identity(model)
        about = self._about_score(identity, part)
        return self._result_file("score", cache.key_of(name, about))

    def has(self, model: Model, part: str) -> bool:
        """Whether the scores of a model are known."""
        return self.score_file(model, part).exists()

    def known(self, model: Model, part: str) -> tuple[Scores, str] | None:
        """The scores, or none and why it failed; None if nobody has tried."""
        file = self.score_file(model, part)
        if failed := self.failures.get(file):
            return {}, failed
        found = cache.load(file)
        if found is None:
            return None
        return {task: Score(**score) for task, score in found["scores"].items()}, ""

    def keep_scores(
        self,
        model: Model,
        part: str,
        scores: Scores,
        seconds: float,
    ) -> None:
        """Keep the scores of a model."""
        name, identity = self._name_and_identity(model)
        label = model.label if isinstance(model, Candidate) else ""
        kept = {
            "model": titled(name, label),
            "part": part,
            "scores": {task: _plain(score) for task, score in scores.items()},
            "seconds": seconds,
            "about": self._about_score(identity, part),
        }
        cache.save(self.score_file(model, part), kept)

    def of_input(
        self, name: str, model: ModelReference, part: str
    ) -> tuple[Scores, str]:
        """The scores of base or expert, or none and why."""
        find = partial(self._input_folder, name, model)
        return self._scores_or_reason((name, model), name, part, find)

    def of_merge(
        self, candidate: Candidate, part: str, *, always_merge: bool
    ) -> tuple[Scores, str]:
        """The scores of a merge, or none and why.

        Args:
            candidate: the merge.
            part: of the items.
            always_merge: make the merge even where its scores are known.
        """
        # Also where nothing is merged: somebody may have changed the file.
        self.write_recipe(candidate)
        return self._scores_or_reason(
            candidate,
            titled(candidate.name, candidate.label),
            part,
            partial(self.merged, candidate),
            always_find=always_merge,
        )

    def cost_of(self, candidate: Candidate) -> dict[str, Any]:
        """What is known of a merge: the fields of `Cost`, or nothing."""
        return cache.load(self._result_file("merge", self.key_of(candidate))) or {}

    def merged_folder(self, candidate: Candidate) -> Path:
        """Where a merged model is, or would be."""
        return self.folder / "merged" / self.key_of(candidate)

    def is_merged(self, candidate: Candidate) -> bool:
        """Whether the merged model is there, as it was when it was made."""
        folder, known = self.merged_folder(candidate), self.cost_of(candidate)
        if not known or not folder.exists():
            return False
        there = cache.fingerprint(folder)
        return bool(known["files"]) and all(file in there for file in known["files"])

    def merged(self, candidate: Candidate) -> Path:
        """The folder of a merged model, which is made if need be."""
        folder = self.merged_folder(candidate)
        if self.is_merged(candidate):
            return folder
        # A merge that was interrupted between the model and its facts, or changed.
        shutil.rmtree(folder, ignore_errors=True)
        step = f"merging {titled(candidate.name, candidate.label)}"
        with self.display.working_on(step), timed(self.plan.merged):
            cost = self.merge(self.recipe_file(candidate), folder)
        # Without the start of what merges, which happens once.
        self.plan.merge_seconds[-1] = cost.seconds
        self.keep_cost(candidate, cost, folder)
        return folder

    def keep_cost(self, candidate: Candidate, cost: Cost, folder: Path | None) -> None:
        """Keep what a merge took.

        Args:
            candidate: the merge.
            cost: what it took.
            folder: where the model is now; None if it was not kept.
        """
        facts = {
            **cost._asdict(),
            "files": cache.fingerprint(folder) if folder else [],
            "about": self._merge_identity(candidate),
        }
        cache.save(self._result_file("merge", self.key_of(candidate)), facts)

    def discard(self, candidate: Candidate) -> None:
        """Delete a merged model."""
        shutil.rmtree(self.merged_folder(candidate), ignore_errors=True)

    def seconds(self, kind: str) -> list[float]:
        """What each ``"merge"`` or ``"score"`` that the folder has took."""
        found = map(cache.load, (self.folder / "runs").glob(f"{kind}-*.json"))
        return [each["seconds"] for each in found if each and "seconds" in each]

    def recipe_file(self, candidate: Candidate) -> Path:
        """Where the recipe of a merge is."""
        return self.folder / "recipes" / f"{self.key_of(candidate)}.yml"

    def write_recipe(self, candidate: Candidate) -> None:
        """Write it, unless it is there."""
        file = self.recipe_file(candidate)
        text = yaml.safe_dump(candidate.recipe, sort_keys=False, allow_unicode=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write_file(file, text)

    def key_of(self, candidate: Candidate) -> str:
        """The name of the files and the folder of a merge."""
        return cache.key_of(candidate.name, self._merge_identity(candidate))

    def _input_folder(self, name: str, model: ModelReference) -> Path:
        if model.lora is None and Path(model.model.path).exists():
            return self.inputs.find(model)
        # It may have to be downloaded, or its adapter merged.
        with self.display.working_on(f"opening {name}"):
            return self.inputs.find(model)

    def _scores_or_reason(
        self,
        model: Model,
        title: str,
        part: str,
        find: Callable[[], Path],
        *,
        always_find: bool = False,
    ) -> tuple[Scores, str]:
        """The scores of a model, or no scores and why; from the cache if possible."""
        timed_before = len(self.plan.evaluation_seconds)
        try:
            known = self.known(model, part)
            if always_find and not (known and known[1]):
                find()
            if known is not None:
                return known
            folder = find()
            with (
                self.display.working_on(f"evaluating {title}") as progress,
                timed(self.plan.evaluated) as seconds,
            ):
                scores = self.evaluation(folder, part, progress)
            self.keep_scores(model, part, scores, seconds())
            # As it is read from the file, where items are rounded.
            return self.known(model, part) or ({}, "its scores cannot be read")
        except (Exception, SystemExit) as error:  # of a command that is called
            if len(self.plan.evaluation_seconds) == timed_before:
                self.plan.evaluated(None)
            self.display.failed(traceback.format_exc())
            return {}, in_few_words(error)
        finally:
            self.display.done()

    def _name_and_identity(self, model: Model) -> tuple[str, Any]:
        if isinstance(model, Candidate):
            return model.name, self._merge_identity(model)
        name, reference = model
        return name, self.inputs.identity_of(reference)

    def _about_score(self, identity: Any, part: str) -> list[Any]:
        return [identity, self.evaluation.identity(part), cache.versions()]

    def _merge_identity(self, candidate: Candidate) -> list[Any]:
        found = [self.inputs.identity_of(model) for model in self.inputs.models]
        return [candidate.recipe, found, self.merge_options, cache.versions()]

    def _result_file(self, kind: str, key: str) -> Path:
        return self.folder / "runs" / f"{kind}-{key}.json"


def in_few_words(error: BaseException) -> str:
    """Why something failed, in one line."""
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


def titled(name: str, label: str) -> str:
    """A model and its settings."""
    return f"{name} ({label})" if label else name


def _plain(score: Score) -> dict[str, Any]:
    items = score.items and [float(f"{item:.7g}") for item in score.items]
    return {**asdict(score), "items": items}
