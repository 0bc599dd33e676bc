"""One row of a comparison as a job: a model is merged or found, and evaluated."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from mergekit.common import ModelReference

from mergekit_pcb.compare.evaluation import Evaluation, Scores
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.merge_process import Cost, MergeServer
from mergekit_pcb.compare.results import in_few_words


class Job(NamedTuple):
    """A model to be evaluated.

    Attributes:
        part: of the items.
        model: base, expert, or the folder of a merge that is there.
        recipe: the file of a merge that is to be made instead.
        keep_at: where the merged model is kept; None deletes it.
    """

    part: str
    model: ModelReference | Path | None = None
    recipe: Path | None = None
    keep_at: Path | None = None


class Done(NamedTuple):
    """What came of a job.

    Attributes:
        scores: of the model.
        failed: why there are none, in one line.
        trace: the same at length.
        cost: of the merge, if there was one.
        seconds: of the evaluation.
    """

    scores: Scores = {}  # noqa: RUF012 - of a tuple, which nobody changes
    failed: str = ""
    trace: str = ""
    cost: Cost | None = None
    seconds: float = 0


@dataclass
class Workbench:
    """What a worker needs for every job of a comparison.

    Attributes:
        inputs: base and experts.
        evaluation: scores a model.
        merge_options: of mergekit-yaml, by the names of its parameters.
        scratch: a folder that all machines share, for merged models.
    """

    inputs: Inputs
    evaluation: Evaluation
    merge_options: Mapping[str, Any]
    scratch: Path
    _server: MergeServer | None = field(default=None, repr=False)

    def merge(self, recipe: Path, out: Path) -> Cost:
        """Run a recipe in a process that stays for the next one."""
        if self._server is None:
            self._server = MergeServer(self.merge_options)
        return self._server(recipe, out)


def run_job(workbench: Workbench, job: Job) -> Done:
    """Merge, if need be, and evaluate; what goes wrong is part of the result."""
    # A name of its own: a worker that is lost may still be writing to the last one.
    merged = workbench.scratch / f"merged-{uuid4().hex}"
    cost = None
    try:
        if job.recipe is not None:
            cost = workbench.merge(job.recipe, merged)
            folder = merged
            if job.keep_at is not None:
                shutil.rmtree(job.keep_at, ignore_errors=True)
                job.keep_at.parent.mkdir(parents=True, exist_ok=True)
                folder = merged.rename(job.keep_at)
        elif isinstance(job.model, ModelReference):
            folder = workbench.inputs.find(job.model)
        else:
            assert job.model is not None, "a job has a recipe or a model"
            folder = job.model
        start = time.perf_counter()
        scores = workbench.evaluation(folder, job.part, lambda _: None)
        seconds = round(time.perf_counter() - start, 3)
        return Done(scores, cost=cost, seconds=seconds)
    except (Exception, SystemExit) as error:  # of a command that is called
        return Done({}, in_few_words(error), traceback.format_exc(), cost)
    finally:
        shutil.rmtree(merged, ignore_errors=True)
