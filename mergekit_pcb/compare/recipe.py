"""The models of a recipe, compared: what the command and the demo call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml
from mergekit.common import ModelReference

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.compare.candidates import (
    METHODS,
    Fixed,
    Inputs,
    Swept,
    candidates,
    inputs_of,
)
from mergekit_pcb.compare.disk import require_room
from mergekit_pcb.compare.evaluation import Evaluation
from mergekit_pcb.compare.files import write
from mergekit_pcb.compare.merge_process import measured_merge, merge_here
from mergekit_pcb.compare.progress import bars_and_log
from mergekit_pcb.compare.report import Report
from mergekit_pcb.compare.result_cache import versions
from mergekit_pcb.compare.run import Comparison
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.error_lines import one_line_errors
from mergekit_pcb.recipes.edits import with_absolute_paths
from mergekit_pcb.recipes.findings import require_no_errors


def compare_recipe(
    recipe: str,
    out: Path,
    evaluation: Callable[[Inputs], Evaluation],
    *,
    methods: Sequence[str] = METHODS,
    fixed: Fixed | None = None,
    swept: Swept | None = None,
    merge_options: Mapping[str, Any] | None = None,
    keep: str = "best",
    quiet: bool = False,
    in_this_process: bool = False,
) -> Report:
    """Merge the models of a recipe by several methods, and evaluate all models.

    Args:
        recipe: the file; it may be for any method.
        out: the folder for everything; what it has already is not done again.
        evaluation: makes the evaluation of all models, from those of the recipe.
        methods: mergekit's names, with ``pcb:model`` for ``scope: model``.
        fixed: parameters by the name of a candidate or method, or by ``""`` for all.
        swept: values to try, likewise.
        merge_options: of mergekit-yaml, by the names of its parameters.
        keep: which merged models stay, one of `run.KEEP`.
        quiet: show no progress.
        in_this_process: merge without starting a process each time, which is faster
            for tiny models; the memory of a merge is then unknown.

    Returns:
        The report, whose files have been written to ``out``.

    Raises:
        PCBError: the recipe is wrong, the disk too small, or no model can be evaluated.
        click.UsageError: methods or parameters do not exist or do not go together, or
            there is no such evaluation.
    """
    with one_line_errors(recipe, verbose=False):
        text = Path(recipe).read_text(encoding="utf-8")
        require_no_errors(check_recipe(text, recipe, "yaml"), recipe)
        document = with_absolute_paths(yaml.safe_load(text))
        inputs = inputs_of(document)
        # Methods that draw at random must draw the same when they run again.
        options = {"random_seed": 0, **(merge_options or {})}
        if any("+" in model for model in (inputs.base, *inputs.experts.values())):
            options.setdefault("lora_merge_cache", str((out / "adapters").resolve()))
        inputs = replace(inputs, find=partial(_find, options))
        try:
            merges = candidates(document, methods, fixed, swept)
            evaluate = evaluation(inputs)
        except PCBError as error:
            raise click.UsageError(error.message) from error
        merge = merge_here if in_this_process else measured_merge
        with bars_and_log(out, quiet=quiet) as display:
            comparison = Comparison(
                folder=out,
                inputs=inputs,
                candidates=merges,
                evaluation=evaluate,
                merge=partial(merge, options=options),
                merge_options=options,
                keep=keep,
                display=display,
            )
            display.expect(comparison.steps)
            dtype = document.get("out_dtype") or document.get("dtype")
            require_room(out, inputs.base, dtype, comparison.models_at_a_time)
            rows, references = comparison.run()
        report = Report(
            recipe=recipe,
            folder=out,
            rows=rows,
            references=references,
            evaluated=evaluate.what,
            how_chosen=evaluate.how_chosen if comparison.chooses_apart else "",
            conditions=versions(),
        )
        write(report)
        return report


def _find(options: Mapping[str, Any], model: str) -> Path:
    """The folder of a model, downloaded or with its adapter merged if need be."""
    whole = ModelReference.parse(model).merged(
        options.get("lora_merge_cache"),
        options.get("trust_remote_code", False),
        options.get("lora_merge_dtype"),
    )
    return Path(whole.local_path(options.get("transformers_cache")))
