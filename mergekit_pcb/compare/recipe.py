"""The models of a recipe, compared: what the command and the demo call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from mergekit_pcb.atomic_files import unfinished_folder
from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.compare.ahead import run_ahead
from mergekit_pcb.compare.candidates import METHODS, Fixed, Swept, candidates
from mergekit_pcb.compare.cluster import Ray, cluster, require_ray
from mergekit_pcb.compare.contenders import contenders
from mergekit_pcb.compare.disk import merged_size
from mergekit_pcb.compare.evaluation import Evaluation
from mergekit_pcb.compare.files import write
from mergekit_pcb.compare.inputs import Inputs, has_own_vocabulary, inputs_of
from mergekit_pcb.compare.merge_process import merge_here, merge_server
from mergekit_pcb.compare.progress import BarsAndLog, bars_and_log
from mergekit_pcb.compare.report import Report
from mergekit_pcb.compare.result_cache import versions
from mergekit_pcb.compare.results import Merge
from mergekit_pcb.compare.run import Comparison
from mergekit_pcb.compare.scoreboard import Scoreboard
from mergekit_pcb.errors import PCBError, as_bad_use
from mergekit_pcb.output.device import require_device
from mergekit_pcb.output.error_lines import one_line_errors
from mergekit_pcb.output.places import require_apart, require_room
from mergekit_pcb.plugin.adapters import merge_adapters
from mergekit_pcb.plugin.checkpoint_files import checkpoint_problem
from mergekit_pcb.recipes.edits import with_absolute_paths
from mergekit_pcb.recipes.findings import require_no_errors
from mergekit_pcb.recipes.models import local_folders, located
from mergekit_pcb.recipes.reading import recipe_text


def compare_recipe(
    recipe: str,
    out: Path,
    evaluation: Callable[[Inputs], Evaluation],
    *,
    methods: Sequence[str] = METHODS,
    fixed: Fixed | None = None,
    swept: Swept | None = None,
    recipes: Sequence[Path] = (),
    merge_options: Mapping[str, Any] | None = None,
    keep: str = "best",
    quiet: bool = False,
    in_this_process: bool = False,
    merge: Merge | None = None,
    on: Ray | None = None,
) -> Report:
    """Merge the models of a recipe by several methods, and evaluate all models.

    Args:
        recipe: the file; it may be for any method.
        out: the folder for everything; what it has already is not done again.
        evaluation: makes the evaluation of all models, from those of the recipe.
        methods: mergekit's names, with ``pcb:model`` for ``scope: model``.
        fixed: parameters by the name of a candidate or method, or by ``""`` for all.
        swept: values to try, likewise.
        recipes: files of recipes for the same models, each a row of its own.
        merge_options: of mergekit-yaml, by the names of its parameters.
        keep: which merged models stay, one of `run.KEEP`.
        quiet: show no progress.
        in_this_process: merge without other processes, which saves tiny models the
            start of one; the memory of a merge is then unknown.
        merge: runs a recipe file into a folder, for models that mergekit-yaml does not
            take; None for mergekit-yaml.
        on: run the merges and evaluations there, by mergekit-yaml.

    Returns:
        The report, whose files have been written to ``out``.

    Raises:
        PCBError: the recipe is wrong, the disk too small, or no model can be evaluated.
        BadUseError: methods or parameters do not exist or do not go together, or there
            is no such evaluation.
    """
    if on is not None:
        require_ray()
    with one_line_errors(recipe, verbose=False):
        document, inputs = opened(recipe, out)
        # Methods that draw at random must draw the same when they run again.
        options = {"random_seed": 0, **(merge_options or {})}
        if on is None:  # other machines may have what this one has not
            parsed = MergeOptions(**options)
            require_device(parsed.device, multi_gpu=parsed.multi_gpu)
        if any(model.lora is not None for model in inputs.models):
            options.setdefault("lora_merge_cache", str((out / "adapters").resolve()))
        inputs = replace(
            inputs,
            find=partial(model_folder, options),
            adapter_dtype=options.get("lora_merge_dtype"),
        )
        with as_bad_use():
            merges = candidates(document, methods, fixed, swept)
        names = dict.fromkeys(candidate.name for candidate in merges)
        merges += contenders(recipes, recipe, inputs, names)
        own = any(has_own_vocabulary(m.recipe, inputs.base) for m in merges)
        inputs = replace(inputs, own_vocabulary=own)
        with as_bad_use():
            evaluate = evaluation(inputs)
        for model in inputs.models:
            if Path(model.model.path).exists():
                _require_whole(Path(model.model.path))
        if merge is None and in_this_process:
            merge = partial(merge_here, options=options)
        with (
            only_one_at_a_time(out),
            bars_and_log(out, quiet=quiet) as display,
            nullcontext(merge) if merge else merge_server(options) as run,
        ):
            comparison = Comparison(
                folder=out,
                inputs=inputs,
                candidates=merges,
                evaluation=evaluate,
                merge=run,
                merge_options=options,
                keep=keep,
                display=display,
            )
            dtype = document.get("out_dtype") or document.get("dtype")
            models = comparison.models_at_a_time
            one = merged_size(inputs.base, dtype, options.get("transformers_cache"))
            if models * one:
                what = f"{models} merged models at a time (fewer with --keep none)"
                # What else comes with a model: a tokenizer, a card, the reports.
                require_room(out, models * one * 1.02 + 50e6, what)
            comparison.make_plan()
            comparison.plan.bytes_written = models * one
            comparison.plan.bytes_read = len(inputs.models) * one
            display.expect(comparison.steps, comparison.plan)
            if on is not None:
                _ahead(comparison, on, one, display)
            rows, references = comparison.run()
        report = Report(
            recipe=recipe,
            folder=out,
            rows=Scoreboard(rows).in_order(),
            references=references,
            evaluated=evaluate.what,
            how_chosen=evaluate.how_chosen if comparison.chooses_apart else "",
            conditions=versions(),
            random_seed=options["random_seed"],
        )
        write(report)
        return report


def opened(recipe: str, out: Path) -> tuple[dict[str, Any], Inputs]:
    """A recipe with absolute paths, and its models.

    Args:
        recipe: the file.
        out: where results go.

    Raises:
        PCBError: the recipe is wrong, or ``out`` shares files with a model.
    """
    text = recipe_text(recipe)
    require_no_errors(check_recipe(text, recipe, "yaml"), recipe)
    written = yaml.safe_load(text)
    inputs = inputs_of(written)
    require_apart(out, itertools.chain(*map(local_folders, inputs.models)))
    return with_absolute_paths(written), inputs


def _ahead(comparison: Comparison, on: Ray, size: float, display: BarsAndLog) -> None:
    """Run the jobs of a comparison, whose merged models have so many bytes."""
    with ExitStack() as stack:
        with display.working_on("connecting to Ray"):
            # An evaluation may hold the model in float32.
            machines = stack.enter_context(cluster(replace(on, memory=2 * size)))
        jobs = min(machines.jobs_at_a_time, len(comparison.candidates))
        what = f"the merged models of {jobs} jobs of Ray at a time"
        require_room(comparison.folder, jobs * size, what)
        scratch = stack.enter_context(unfinished_folder(comparison.folder, ".jobs-"))
        run_ahead(comparison, machines, scratch.absolute())


@contextmanager
def only_one_at_a_time(out: Path) -> Iterator[None]:
    """Keep other processes from working in the same folder.

    Raises:
        PCBError: another one does.
    """
    out.mkdir(parents=True, exist_ok=True)
    # The operating system releases it whatever ends this process.
    lock = FileLock(out / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise PCBError(
            f"another `mergekit-pcb compare` or `search` is working in {out}: wait "
            "until it is done, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def model_folder(options: Mapping[str, Any], model: ModelReference) -> Path:
    """The folder of a model, downloaded or with its adapter merged if need be.

    Args:
        options: of mergekit-yaml, by the names of its parameters.
        model: of a recipe.

    Raises:
        PCBError: its files are damaged.
    """
    model = located(model)
    known = MergeOptions.model_fields.keys() & options.keys()
    merge_adapters([model], MergeOptions(**{name: options[name] for name in known}))
    whole = model.merged(
        options.get("lora_merge_cache"),
        options.get("trust_remote_code", False),
        options.get("lora_merge_dtype"),
    )
    folder = Path(whole.local_path(options.get("transformers_cache")))
    _require_whole(folder)
    return folder


def _require_whole(folder: Path) -> None:
    if problem := checkpoint_problem(folder):
        raise PCBError(problem)
