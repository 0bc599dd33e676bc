"""The search for the models of a recipe: what the command calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mergekit.options import MergeOptions

from mergekit_pcb.atomic_files import unfinished_folder, write_file
from mergekit_pcb.compare import result_cache as cache
from mergekit_pcb.compare.candidates import candidates
from mergekit_pcb.compare.cluster import Ray, cluster, require_ray
from mergekit_pcb.compare.disk import merged_size
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.merge_process import merge_server
from mergekit_pcb.compare.plan import Plan
from mergekit_pcb.compare.progress import bars_and_log
from mergekit_pcb.compare.recipe import model_folder, only_one_at_a_time, opened
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.device import require_device
from mergekit_pcb.output.error_lines import one_line_errors
from mergekit_pcb.output.places import require_room
from mergekit_pcb.output.text import size
from mergekit_pcb.plugin.parameters import DEFAULT_WEIGHT
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.layout import in_yaml
from mergekit_pcb.search.agreement import Agreement
from mergekit_pcb.search.ahead import OnCluster
from mergekit_pcb.search.files import clear, write
from mergekit_pcb.search.groups import COUNT
from mergekit_pcb.search.objective import Objective
from mergekit_pcb.search.others import OtherMerge, other_merges
from mergekit_pcb.search.report import Report
from mergekit_pcb.search.run import Search
from mergekit_pcb.search.scores import Scorer
from mergekit_pcb.search.tools import Task
from mergekit_pcb.search.weights import Budget

# Of the disk, for reports and scores.
_REPORTS = 20e6


def search_recipe(
    recipe: str,
    out: Path,
    objective: Callable[[Inputs, Path], Objective],
    *,
    merge_options: MergeOptions,
    budget: Budget | None = None,
    per_group: str | None = None,
    also: Sequence[str] = (),
    on: Ray | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Report:
    """Search for the best method, settings and weights for the models of a recipe.

    Args:
        recipe: the file; a recipe of another method begins with pcb's defaults.
        out: the folder for everything; what it has already is not done again.
        objective: makes what scores, from the models and a folder for its files.
        merge_options: as for a merge.
        budget: for the weights; None leaves them.
        per_group: what groups of tensors have weights of their own, see `groups_for`.
        also: other methods, by mergekit's names, whose candidates are merged.
        on: score the candidates there.
        seed: for the report.
        quiet: show no progress.

    Returns:
        The report, whose files have been written to ``out``.

    Raises:
        PCBError: the recipe is wrong, the disk too small, or nothing can be scored.
    """
    if on is not None:
        require_ray()
    with one_line_errors(recipe, verbose=merge_options.verbosity > 0):
        if on is None:  # other machines may have what this one has not
            require_device(merge_options.device, multi_gpu=merge_options.multi_gpu)
        document, inputs = opened(recipe, out)
        if len(inputs.experts) < 2:
            raise PCBError(
                f"{recipe} merges one model beside its base: there is nothing to choose"
            )
        if inputs.own_vocabulary:
            raise PCBError(
                f"{recipe} makes a vocabulary of its own, which a model in memory does "
                "not have: write `tokenizer: {source: base}`"
            )
        if budget is not None:
            budget.check(len(inputs.experts) * (COUNT if per_group else 1))
        others = other_merges(document, also)
        folders = {"lora_merge_cache": str((out / "adapters").resolve())}
        options: dict[str, Any] = merge_options.model_dump()
        if options.get("lora_merge_cache") is None:
            options |= folders
        inputs = replace(
            inputs,
            find=partial(model_folder, options),
            adapter_dtype=merge_options.lora_merge_dtype,
        )
        start = _for_pcb(document)
        with only_one_at_a_time(out):
            task = Task(
                document["merge_method"],
                start,
                inputs,
                objective,
                MergeOptions(**options),
                per_group,
            )
            return _searched(recipe, task, out, budget, others, on, seed, quiet=quiet)


def _searched(
    recipe: str,
    task: Task,
    out: Path,
    budget: Budget | None,
    others: Sequence[OtherMerge],
    on: Ray | None,
    seed: int,
    *,
    quiet: bool,
) -> Report:
    write_file(out / "start.yml", in_yaml([task.start], [""]))
    inputs = task.inputs
    with ExitStack() as stack:
        scratch = stack.enter_context(unfinished_folder(out, ".search-"))
        display = stack.enter_context(bars_and_log(out, quiet=quiet))
        merge = stack.enter_context(merge_server(task.for_merges))
        scores_by = task.objective(inputs, scratch)
        counts = scores_by.inputs() if isinstance(scores_by, Agreement) else {}
        if isinstance(scores_by, Agreement):
            with display.working_on("looking at the experts"):
                scores_by.prepare()
        with display.working_on("planning the merge"):
            bench, merger, groups = task.tools(scratch, merge, scores_by)
        if budget is not None and not _has_plain_weights(task.start):
            display.say(
                "A `weight` of the recipe is a gradient or filtered list: it keeps its "
                "form, and what is tuned are factors on it."
            )
        model, workers = merged_size(str(inputs.find(inputs.base)), "float32"), 1
        ahead = None
        if on is not None:
            with display.working_on("connecting to Ray"):
                machines = stack.enter_context(cluster(replace(on, memory=3 * model)))
            ahead = OnCluster(machines, task, scratch.absolute())
            workers = machines.jobs_at_a_time
        room = workers * _room_needed(task, scores_by, budget, others) + _REPORTS
        memory = _models_in_memory(model, scores_by, others)
        memory += f" in each of {workers} workers" if ahead is not None else ""
        display.say(f"Needs up to {size(room)} of disk while it works, and {memory}.")
        require_room(scratch, room, "the files of a search")
        about = [
            [inputs.identity_of(model) for model in inputs.models],
            cache.versions(),
            task.device,
        ]
        plan = Plan()
        scorer = Scorer(out, scores_by, about, display, plan)
        search = Search(
            task.start, scorer, bench, budget, groups, others, merger, ahead
        )
        plan.evaluations = search.steps
        display.expect(search.steps, plan)
        # If this search stops, that of an earlier one must not look like its result.
        clear(out)
        outcome = search.run()
    report = Report(
        recipe=recipe,
        method=task.method,
        start=task.start,
        folder=out,
        outcome=outcome,
        evaluated=scores_by.what,
        how_chosen=scores_by.how_chosen,
        inputs=counts,
        models=list(inputs.experts),
        random_seed=task.for_merges["random_seed"],
        seed=seed,
        conditions=cache.versions(),
        generated=isinstance(scores_by, Agreement) and not scores_by.can_tune_weights,
    )
    write(report)
    return report


def _for_pcb(document: Mapping[str, Any]) -> edits.Recipe:
    """The recipe for pcb that the search begins with."""
    if document["merge_method"] == "pcb":
        return dict(document)
    (candidate,) = candidates(dict(document), ["pcb"])
    return dict(candidate.recipe)


def _has_plain_weights(recipe: edits.Recipe) -> bool:
    weights = edits.values_of(recipe, "weight", DEFAULT_WEIGHT)
    return all(isinstance(weight, (int, float)) for weight in weights)


def _room_needed(
    task: Task,
    objective: Objective,
    budget: Budget | None,
    others: Sequence[OtherMerge],
) -> float:
    """Bytes of disk that a process needs at most."""
    base, start = str(task.inputs.find(task.inputs.base)), task.start
    # The sum of all contributions is kept, or, where weights are tuned, that of each
    # model and what their sum is divided by.
    rows = 1 if budget is None else len(task.inputs.experts) + 1
    needed = merged_size(base, start.get("dtype")) + rows * merged_size(base, "float32")
    if others:
        needed += merged_size(base, start.get("out_dtype") or start.get("dtype"))
    return needed + objective.room()


def _models_in_memory(
    model: float, objective: Objective, others: Sequence[OtherMerge]
) -> str:
    """How many models there are in memory at a time, each of so many bytes."""
    # An expert is asked while the base is there; other merges stand beside it.
    if others or isinstance(objective, Agreement):
        return f"memory for two models ({size(model)} each in float32)"
    return f"memory for one model ({size(model)} in float32)"
