"""A search on several machines: its candidates are scored by jobs of Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mergekit_pcb.compare.cluster import Cluster, worker_folder
from mergekit_pcb.compare.merge_process import MergeServer
from mergekit_pcb.compare.results import in_few_words
from mergekit_pcb.errors import PCBError
from mergekit_pcb.search.objective import Objective
from mergekit_pcb.search.others import OtherMerge
from mergekit_pcb.search.outcome import AnyCandidate
from mergekit_pcb.search.run import Search
from mergekit_pcb.search.scores import Scored, scored_by
from mergekit_pcb.search.space import RECIPE, Candidate, Setting, around
from mergekit_pcb.search.tools import Task, Tools


class Job(NamedTuple):
    """Candidates of one setting, so that its contributions are made once.

    Attributes:
        part: of the items.
        candidates: to be scored; None stands for the base.
        setting: whose lambda is wanted, and the candidates around it besides.
    """

    part: str
    candidates: Sequence[AnyCandidate | None] = ()
    setting: Setting | None = None


class Done(NamedTuple):
    """A candidate of a job, its scores, a traceback, and the seconds it took."""

    candidate: AnyCandidate | None
    scored: Scored
    trace: str
    seconds: float


class Finished(NamedTuple):
    """What came of a job.

    Attributes:
        automatic: the lambda of its setting, if that was wanted.
        done: its candidates.
        failed: why there is nothing.
    """

    automatic: float | None = None
    done: Sequence[Done] = ()
    failed: str = ""


@dataclass
class Workbench:
    """What a worker needs for every job of a search; made when the first one comes.

    Attributes:
        task: what is searched.
        scratch: a folder that all machines share.
    """

    task: Task
    scratch: Path
    _ready: tuple[Objective, Tools] | None = field(default=None, repr=False)

    def ready(self) -> tuple[Objective, Tools]:
        """What scores, and what makes models."""
        if self._ready is None:
            folder = worker_folder(self.scratch)
            server = MergeServer(self.task.for_merges)
            objective = self.task.objective(self.task.inputs, folder)
            self._ready = objective, self.task.tools(folder, server, objective)
        return self._ready


def run_job(workbench: Workbench, job: Job) -> Finished:
    """Make and score the candidates of a job."""
    automatic = None
    candidates = list(job.candidates)
    try:
        objective, tools = workbench.ready()
        if job.setting is not None:
            automatic = tools.bench.contributions(job.setting).automatic
            candidates += around(job.setting, automatic)
    except Exception as error:
        return Finished(failed=in_few_words(error))
    return Finished(
        automatic, [_scored(objective, tools, job.part, each) for each in candidates]
    )


def _scored(
    objective: Objective, tools: Tools, part: str, candidate: AnyCandidate | None
) -> Done:
    def model() -> object:
        if candidate is None:
            return tools.bench.base_model()
        if isinstance(candidate, OtherMerge):
            return tools.merger(candidate)
        return tools.bench.model_of(candidate)

    start = time.perf_counter()
    scored, trace = scored_by(objective, model, part, lambda _: None)
    return Done(candidate, scored, trace, time.perf_counter() - start)


@dataclass(frozen=True)
class OnCluster:
    """Scores the candidates of a search on a cluster, ahead of the search.

    Attributes:
        cluster: where jobs run.
        task: what is searched.
        scratch: a folder that all machines share.
    """

    cluster: Cluster
    task: Task
    scratch: Path

    def settings(self, search: Search, settings: Sequence[Setting]) -> None:
        """One job for each setting, one for base and start, one for each other merge.

        Raises:
            PCBError: a setting has no contributions, or several failures in a row.
        """
        part = search.parts[0]
        jobs = []
        for setting in settings:
            automatic = search.known_automatic(setting)
            if automatic is None:
                jobs.append(Job(part, setting=setting))
            else:
                found = self._missing(search, around(setting, automatic), part)
                jobs += [Job(part, found)] if found else []
        first = self._missing(search, [None, Candidate(Setting(RECIPE))], part)
        jobs += [Job(part, first)] if first else []
        others = self._missing(search, search.others, part)
        jobs += [Job(part, [other]) for other in others]
        self._run(search, jobs)

    def candidates(
        self, search: Search, candidates: Sequence[AnyCandidate], part: str
    ) -> None:
        """One job for each candidate.

        Raises:
            PCBError: several failures in a row.
        """
        missing = self._missing(search, candidates, part)
        self._run(search, [Job(part, [candidate]) for candidate in missing])

    @staticmethod
    def _missing(
        search: Search, candidates: Sequence[AnyCandidate | None], part: str
    ) -> list[AnyCandidate | None]:
        return [
            candidate
            for candidate in dict.fromkeys(candidates)
            if search.scorer.known(*_identity(search, candidate), part) is None
        ]

    def _run(self, search: Search, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        finished = 0
        common = Workbench(self.task, self.scratch)
        with (
            search.scorer.display.working_on(f"{len(jobs)} jobs on Ray") as progress,
            closing(self.cluster.run(run_job, common, jobs)) as running,
        ):
            for number, came in running:
                job = jobs[number]
                if isinstance(came, Exception):
                    came = _given_up(job, came)
                if came.failed:
                    raise PCBError(came.failed)
                if job.setting is not None and came.automatic is not None:
                    search.keep_automatic(job.setting, came.automatic)
                for done in came.done:
                    name, identity = _identity(search, done.candidate)
                    search.scorer.keep(
                        name,
                        identity,
                        job.part,
                        done.scored,
                        done.seconds,
                        done.trace,
                        ahead=True,
                        counts=not isinstance(done.candidate, OtherMerge),
                    )
                finished += 1
                progress(100 * finished / len(jobs))


def _given_up(job: Job, error: Exception) -> Finished:
    """What is left of a job whose workers were lost time and again."""
    reason = f"its job was lost on Ray: {in_few_words(error)}"
    if job.setting is not None:
        return Finished(failed=f"{job.setting}: {reason}")
    failed = Scored({}, reason)
    return Finished(done=[Done(each, failed, reason, 0.0) for each in job.candidates])


def _identity(search: Search, candidate: AnyCandidate | None) -> tuple[str, object]:
    if candidate is None:
        return "base", "base"
    return str(candidate), search.identity_of(candidate)
