"""``mergekit-pcb compare``: the models of a recipe, merged by several methods."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from mergekit.common import ModelReference
from mergekit.options import PrettyPrintHelp
from mergekit.scripts import run_yaml
from rich.console import Console

from mergekit_pcb.check.command import check_recipe
from mergekit_pcb.compare import files
from mergekit_pcb.compare import report as reports
from mergekit_pcb.compare.candidates import METHODS, Inputs, candidates, inputs_of
from mergekit_pcb.compare.disk import require_room
from mergekit_pcb.compare.evaluation import Evaluation, Function
from mergekit_pcb.compare.harness import Harness
from mergekit_pcb.compare.merge_process import measured_merge
from mergekit_pcb.compare.progress import watching
from mergekit_pcb.compare.result_cache import versions
from mergekit_pcb.compare.run import KEEP, Comparison
from mergekit_pcb.compare.terminal import terminal_table
from mergekit_pcb.compare.weight_metrics import WeightMetrics
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.error_lines import one_line_errors
from mergekit_pcb.recipes.edits import Recipe, with_absolute_paths
from mergekit_pcb.recipes.findings import require_no_errors

# Options of mergekit-yaml that mean something else here, or nothing.
_NOT_PASSED = {"config_file", "out_path", "device", "quiet", "verbosity"}


def _words(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    words = [word.strip() for word in (value or "").split(",")]
    return [word for word in dict.fromkeys(words) if word]


def _pairs(
    _: click.Context, __: click.Parameter, values: Sequence[str]
) -> list[tuple[str, Any]]:
    pairs = []
    for pair in values:
        name, equals, text = pair.partition("=")
        if not (equals and name.strip() and text.strip()):
            raise click.BadParameter(f"write NAME=VALUE, not `{pair}`")
        try:
            pairs.append((name.strip(), yaml.safe_load(text)))
        except yaml.YAMLError as error:
            raise click.BadParameter(f"`{text}` is not a value") from error
    return pairs


_OPTIONS: list[click.Parameter] = [
    click.Argument(["recipe"], type=click.Path(exists=True, dir_okay=False)),
    click.Option(
        ["--out"],
        required=True,
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where everything goes; what it has already is not done again.",
    ),
    click.Option(
        ["--methods"],
        callback=_words,
        default=",".join(METHODS),
        show_default=True,
        metavar="A,B,…",
        help="Any of mergekit's methods; `pcb:model` is pcb with `scope: model`.",
    ),
    click.Option(
        ["--set", "fixed"],
        callback=_pairs,
        multiple=True,
        metavar="[METHOD.]NAME=VALUE",
        help="A parameter, for one method or for all that know it.",
    ),
    click.Option(
        ["--sweep"],
        callback=_pairs,
        multiple=True,
        metavar="[METHOD.]NAME=A,B,…",
        help="Values to choose from. Every method gets as many tries; one without that "
        "parameter tries its nearest.",
    ),
    click.Option(
        ["--tasks"],
        callback=_words,
        metavar="A,B,…",
        help="Evaluate by these tasks of lm-evaluation-harness.",
    ),
    click.Option(
        ["--validation-tasks"],
        callback=_words,
        metavar="A,B,…",
        help="Choose swept settings by these.  [default: half of the items of --tasks]",
    ),
    click.Option(
        ["--include-path"],
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="A folder with task files of your own.",
    ),
    click.Option(["--limit"], type=float, help="Only so many items of each task."),
    click.Option(["--batch-size"], default="1", show_default=True, help="Or `auto`."),
    click.Option(["--device"], help="Where to evaluate, such as cuda:0."),
    click.Option(["--num-fewshot"], type=int, help="Examples before each item."),
    click.Option(
        ["--apply-chat-template"], is_flag=True, help="Ask as in a conversation."
    ),
    click.Option(
        ["--model-args"],
        metavar="NAME=VALUE,…",
        help="For the harness's model, such as dtype=bfloat16.",
    ),
    click.Option(
        ["--metric"],
        callback=_pairs,
        multiple=True,
        metavar="TASK=NAME",
        help="The metric of a task.  [default: the first that it lists]",
    ),
    click.Option(
        ["--evaluate"],
        metavar="MODULE:FUNCTION",
        help="Evaluate by your own function of a model folder, which returns numbers "
        "by name. If it takes `split`, it gets `validation` or `test`.",
    ),
    click.Option(
        ["--lower-is-better"],
        callback=_words,
        default="",
        metavar="A,B,…",
        help="Names from --evaluate. Losses and perplexities are known by name.",
    ),
    click.Option(
        ["--keep"],
        type=click.Choice(KEEP),
        default=KEEP[0],
        show_default=True,
        help="Which merged models stay. Any can be made again from DIR/recipes.",
    ),
    click.Option(["--quiet", "-q"], is_flag=True, help="Print the table only."),
]
_MERGEKIT_OPTIONS = [p for p in run_yaml.main.params if p.name not in _NOT_PASSED]


def _compare(
    recipe: str,
    out: Path,
    methods: Sequence[str],
    fixed: Sequence[tuple[str, Any]],
    sweep: Sequence[tuple[str, Any]],
    keep: str,
    quiet: bool,
    **more: Any,
) -> None:
    _require_consistent(more, sweep)
    with one_line_errors(recipe, verbose=False):
        document = _read(recipe)
        inputs = inputs_of(document)
        options = _merge_options(more, inputs, out)
        find = _finder(options)
        try:
            swept = [(name, _listed(values)) for name, values in sweep]
            merges = candidates(document, methods, _by_place(fixed), _by_place(swept))
            evaluation = _evaluation(more, inputs, find)
        except PCBError as error:
            raise click.UsageError(error.message) from error
        with watching(out, quiet=quiet) as watch:
            comparison = Comparison(
                folder=out,
                inputs=inputs,
                candidates=merges,
                evaluation=evaluation,
                merge=lambda file, folder, progress: measured_merge(
                    file, folder, _as_arguments(options), watch.log, progress
                ),
                merge_options=options,
                find=find,
                keep=keep,
                watch=watch,
            )
            watch.expect(comparison.steps)
            dtype = document.get("out_dtype") or document.get("dtype")
            require_room(out, inputs.base, dtype, comparison.models_at_a_time)
            try:
                result = comparison.run()
            except KeyboardInterrupt:
                raise click.ClickException(
                    f"interrupted; the same command goes on with what is in {out}"
                ) from None
        report = reports.Report(
            recipe=recipe,
            rows=result.rows,
            references=result.references,
            evaluated=evaluation.what,
            how_chosen=evaluation.how_chosen if comparison.chooses_apart else "",
            conditions=versions(),
        )
        missing = files.write(report, out)
    _show(report, comparison, missing, quiet=quiet)
    if not report.scoreboard.merges:
        sys.exit(1)


compare = PrettyPrintHelp(
    "compare",
    params=[*_OPTIONS, *_MERGEKIT_OPTIONS],
    callback=_compare,
    help=(
        "Merge the models of RECIPE by several methods, and evaluate base, experts and "
        "merges: by lm-evaluation-harness (--tasks), by a function of your own "
        "(--evaluate), or, with neither, by measures of the weights alone.\n\n"
        "RECIPE may be for any method. That method keeps its settings; the others take "
        "those that mean the same to them, and customary ones for the rest, such as "
        "their own density. DIR gets comparison.html, .md, .csv and .json and the "
        "pictures, and is resumed after an interruption."
    ),
)


def _require_consistent(more: Mapping[str, Any], sweep: Sequence[Any]) -> None:
    if more["tasks"] and more["evaluate"]:
        raise click.UsageError("evaluate by --tasks or by --evaluate, not by both")
    if more["validation_tasks"] and not (more["tasks"] and sweep):
        raise click.UsageError("--validation-tasks goes with --tasks and --sweep")


def _read(file: str) -> Recipe:
    text = Path(file).read_text(encoding="utf-8")
    require_no_errors(check_recipe(text, file, "yaml"), file)
    document: Recipe = yaml.safe_load(text)
    return with_absolute_paths(document)


def _by_place(pairs: Sequence[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    places: dict[str, dict[str, Any]] = {}
    for name, value in pairs:
        place, _, parameter = name.rpartition(".")
        places.setdefault(place, {})[parameter] = value
    return places


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = [yaml.safe_load(word) for word in value.split(",") if word.strip()]
    return list(dict.fromkeys(value)) if isinstance(value, list) else [value]


def _merge_options(
    more: Mapping[str, Any], inputs: Inputs, out: Path
) -> dict[str, Any]:
    """The options of mergekit that are not at their defaults."""
    options = {
        parameter.name: more[parameter.name]
        for parameter in _MERGEKIT_OPTIONS
        if parameter.name and more[parameter.name] != parameter.default
    }
    # Methods that draw at random shall draw the same when they are run again.
    options.setdefault("random_seed", 0)
    if any("+" in model for model in (inputs.base, *inputs.experts.values())):
        options.setdefault("lora_merge_cache", str((out / "adapters").resolve()))
    return options


def _as_arguments(options: Mapping[str, Any]) -> list[str]:
    arguments = ["--no-quiet"]
    for parameter in _MERGEKIT_OPTIONS:
        if parameter.name not in options:
            continue
        value = options[parameter.name]
        if isinstance(value, bool):
            arguments.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            arguments += [parameter.opts[0], str(value)]
    return arguments


def _finder(options: Mapping[str, Any]) -> Callable[[str], Path]:
    """How mergekit finds models, downloads them, and merges adapters into them."""
    cache = options.get("transformers_cache")

    def find(model: str) -> Path:
        whole = ModelReference.parse(model).merged(
            options.get("lora_merge_cache"),
            options.get("trust_remote_code", False),
            options.get("lora_merge_dtype"),
        )
        return Path(whole.local_path(cache))

    return find


def _evaluation(
    more: Mapping[str, Any], inputs: Inputs, find: Callable[[str], Path]
) -> Evaluation:
    if more["evaluate"]:
        return Function(more["evaluate"], more["lower_is_better"])
    if not more["tasks"]:
        return WeightMetrics(inputs.base, inputs.experts, find)
    arguments = {}
    for pair in (more["model_args"] or "").split(","):
        name, equals, value = pair.partition("=")
        if equals:
            arguments[name.strip()] = yaml.safe_load(value)
    if more.get("trust_remote_code"):
        arguments["trust_remote_code"] = True
    return Harness(
        more["tasks"],
        validation_tasks=more["validation_tasks"] or (),
        metrics={task: str(metric) for task, metric in more["metric"]},
        include_path=more["include_path"],
        limit=more["limit"],
        model_args=arguments,
        tokenizer=lambda: find(inputs.base),
        batch_size=more["batch_size"],
        device=more["device"],
        num_fewshot=more["num_fewshot"],
        apply_chat_template=more["apply_chat_template"],
    )


def _show(
    report: reports.Report,
    comparison: Comparison,
    missing: str,
    *,
    quiet: bool,
) -> None:
    screen = Console(highlight=False)
    table, left_out = terminal_table(report.scoreboard, screen.width)
    screen.print(table)
    screen.print(reports.verdict(report.scoreboard), soft_wrap=False, markup=False)
    if quiet:
        return
    out = comparison.folder
    screen.print()
    if left_out:
        screen.print(f"Not shown here: {'; '.join(left_out)}.", markup=False)
    for note in reports.notes(report):
        # Every setting is in the files.
        if not note.startswith("Tried: "):
            screen.print(note, markup=False, style="dim")
    pictures = "" if missing else "; pictures beside it"
    screen.print(f"Report: {out / files.PAGE}, and as .md, .csv and .json{pictures}")
    for row in report.rows:
        if row.model and (out / row.model).exists():
            screen.print(f"Model of {row.name}: {out / row.model}", markup=False)
    if any(row.failed for row in report.rows):
        screen.print(f"What failed is told in full in {out / 'log.txt'}.", markup=False)
    if missing:
        screen.print(missing, markup=False)
