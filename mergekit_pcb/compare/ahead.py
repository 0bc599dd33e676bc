"""A comparison on several machines: its jobs run ahead, and it finds them done."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

from mergekit_pcb.compare.candidates import Candidate
from mergekit_pcb.compare.cluster import Cluster
from mergekit_pcb.compare.jobs import Done, Job, Workbench, run_job
from mergekit_pcb.compare.results import Model, Results, in_few_words, titled
from mergekit_pcb.compare.run import Comparison, rank_score
from mergekit_pcb.compare.scoreboard import Row, Tried


def run_ahead(comparison: Comparison, cluster: Cluster, scratch: Path) -> None:
    """Merge and evaluate on a cluster what the folder of a comparison lacks.

    The results go where the comparison keeps its own, so that it repeats nothing.

    Args:
        comparison: to be run afterwards.
        cluster: where the jobs run.
        scratch: a folder for merged models, which all machines share.
    """
    results, (choosing, showing) = comparison.results, comparison.parts
    # Adapters are merged here: two workers must not write to one folder.
    for name, model in comparison.inputs.experts.items():
        if model.lora is not None:
            with comparison.display.working_on(f"opening {name}"):
                comparison.inputs.find(model)
    inputs: list[Model] = [(name, model) for _, name, model in comparison.models]
    wanted = [(m, part) for part in dict.fromkeys((choosing, showing)) for m in inputs]
    wanted += [(candidate, choosing) for candidate in comparison.candidates]
    _run(comparison, cluster, scratch, wanted)
    if comparison.chooses_apart:
        winners = _winners(comparison, results)
        _run(comparison, cluster, scratch, [(winner, showing) for winner in winners])


def _run(
    comparison: Comparison,
    cluster: Cluster,
    scratch: Path,
    wanted: Sequence[tuple[Model, str]],
) -> None:
    results = comparison.results
    missing = [(model, part) for model, part in wanted if not results.has(model, part)]
    if not missing:
        return
    jobs = [_job(comparison, model, part) for model, part in missing]
    common = Workbench(
        comparison.inputs, comparison.evaluation, comparison.merge_options, scratch
    )
    finished = 0
    with (
        comparison.display.working_on(f"{len(jobs)} jobs on Ray") as progress,
        closing(cluster.run(run_job, common, jobs)) as running,
    ):
        for number, done in running:
            if isinstance(done, Exception):
                done = Done({}, in_few_words(done))
            _keep(comparison, *missing[number], done)
            finished += 1
            progress(100 * finished / len(jobs))


def _job(comparison: Comparison, model: Model, part: str) -> Job:
    if not isinstance(model, Candidate):
        return Job(part, model=model[1])
    results = comparison.results
    results.write_recipe(model)
    folder = results.merged_folder(model)
    if results.is_merged(model):
        return Job(part, model=folder.absolute())
    keep_at = folder.absolute() if comparison.keep == "all" else None
    return Job(part, recipe=results.recipe_file(model).absolute(), keep_at=keep_at)


def _keep(comparison: Comparison, model: Model, part: str, done: Done) -> None:
    results, display = comparison.results, comparison.display
    if not isinstance(model, Candidate):
        title = model[0]
    else:
        title = titled(model.name, model.label)
        if done.cost is not None:
            kept = results.merged_folder(model) if comparison.keep == "all" else None
            results.keep_cost(model, done.cost, kept)
            comparison.plan.merged(done.cost.seconds)
    if done.failed:
        comparison.failures[results.score_file(model, part)] = done.failed
        comparison.plan.evaluated(None)
        display.failed(done.trace)
    else:
        results.keep_scores(model, part, done.scores, done.seconds)
        comparison.plan.evaluated(done.seconds)
    display.log.write(f"{title}: {done.failed or 'done'} ({done.seconds:.1f} s)\n")


def _winners(comparison: Comparison, results: Results) -> list[Candidate]:
    """The candidates whose settings are chosen, the first of equals in each group."""
    choosing = comparison.parts[0]
    references = []
    for kind, name, model in comparison.models:
        scores, failed = results.known((name, model), choosing) or ({}, "not known")
        references.append(Row(kind, name, scores, failed=failed))
    winners = []
    for _, group in groupby(comparison.candidates, key=lambda each: each.name):
        ranked = []
        for candidate in group:
            scores, failed = results.known(candidate, choosing) or ({}, "not known")
            if not failed:
                tried = Tried(candidate.label, dict(candidate.swept), scores)
                ranked.append((rank_score(references, candidate, tried), candidate))
        if ranked:
            winners.append(max(ranked, key=lambda pair: pair[0])[1])
    return winners
