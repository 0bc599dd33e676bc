"""``mergekit-pcb compare``: the models of a recipe, merged by several methods."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from mergekit.options import PrettyPrintHelp
from mergekit.scripts import run_yaml

from mergekit_pcb.compare.candidates import METHODS
from mergekit_pcb.compare.evaluation import Evaluation
from mergekit_pcb.compare.function import Function
from mergekit_pcb.compare.grids import automatic_sweep
from mergekit_pcb.compare.harness_options import (
    add_harness_options,
    harness_of,
    without_tasks,
)
from mergekit_pcb.compare.inputs import Inputs
from mergekit_pcb.compare.pairs import pairs, sweeps
from mergekit_pcb.compare.ray_options import add_ray_options, ray_of
from mergekit_pcb.compare.recipe import compare_recipe
from mergekit_pcb.compare.run import KEEP
from mergekit_pcb.compare.terminal import show
from mergekit_pcb.compare.weight_metrics import WeightMetrics
from mergekit_pcb.output.command_line import require_effect, words
from mergekit_pcb.output.device import require_device
from mergekit_pcb.plugin.parameters import AUTO


@click.command(cls=PrettyPrintHelp)
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything goes; what it has already is not done again.",
)
@click.option(
    "--methods",
    callback=words,
    default=",".join(METHODS),
    show_default=True,
    metavar="A,B,…",
    help="Any of mergekit's methods; `pcb:model` is pcb with `scope: model`.",
)
@click.option(
    "--set",
    "fixed",
    callback=pairs,
    multiple=True,
    metavar="[METHOD.]NAME=VALUE",
    help="A parameter, for one method or for all that know it.",
)
@click.option(
    "--sweep",
    callback=sweeps,
    multiple=True,
    metavar="auto | [METHOD.]NAME=A,B,…",
    help="Values to choose from. `auto`: every method has six settings of its own. "
    "Else every method gets as many tries, and one without that parameter tries its "
    "nearest.",
)
@click.option(
    "--recipe",
    "recipes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A recipe for the same base and models that gets a row of its own, merged as "
    "it is, such as the best.yml of `mergekit-pcb search`. May be given several times.",
)
@click.option(
    "--tasks",
    callback=words,
    metavar="A,B,…",
    help="Evaluate by these tasks of lm-evaluation-harness.",
)
@click.option(
    "--validation-tasks",
    callback=words,
    metavar="A,B,…",
    help="Choose swept settings by these.  [default: half of the items of --tasks]",
)
@add_harness_options
@click.option(
    "--device",
    help="Where to evaluate, such as cuda:0.  [default: a GPU if there is one]",
)
@click.option(
    "--evaluate",
    metavar="MODULE:FUNCTION",
    help="Evaluate by your own function of a model folder, or, if its parameter is "
    "named `model`, of a model of transformers. It returns, by name, a number, one "
    "number for each item, or a pair (part, weight) for each. If it takes `split`, it "
    "gets `validation` or `test`.",
)
@click.option(
    "--lower-is-better",
    callback=words,
    default="",
    metavar="A,B,…",
    help="Names from --evaluate. Losses and perplexities are known by name.",
)
@click.option(
    "--keep",
    type=click.Choice(KEEP),
    default=KEEP[0],
    show_default=True,
    help="Which merged models stay. Any can be made again from DIR/recipes.",
)
@add_ray_options
@click.option("--quiet", "-q", is_flag=True, help="Print answer and table only.")
def compare(
    recipe: str,
    out: Path,
    methods: Sequence[str],
    fixed: Mapping[str, Any],
    sweep: Mapping[str, Sequence[Any]],
    recipes: Sequence[Path],
    keep: str,
    quiet: bool,
    **more: Any,
) -> None:
    """Merge the models of RECIPE by several methods, and evaluate base, experts and
    merges: by lm-evaluation-harness (--tasks), by a function of your own
    (--evaluate), or, with neither, by measures of the weights alone.

    \b
    $ mergekit-pcb compare recipe.yml --out comparison --sweep auto \\
        --tasks arc_easy --recipe found/best.yml

    RECIPE may be for any method. That method keeps its settings; the others take
    those that mean the same to them, and customary ones for the rest, such as
    their own density. DIR gets comparison.html, .md, .csv and .json and the
    pictures, and is resumed after an interruption.
    """  # noqa: D205, D301 - click prints it as it is, and wants the character itself
    if more["tasks"] and more["evaluate"]:
        raise click.UsageError("evaluate by --tasks or by --evaluate, not by both")
    if more["validation_tasks"] and not (more["tasks"] and sweep):
        raise click.UsageError("--validation-tasks goes with --tasks and --sweep")
    if not (methods or recipes):
        raise click.UsageError("name what to merge by, with --methods or --recipe")
    of_function = "" if more["evaluate"] else "is for --evaluate"
    scored = more["tasks"] or more["evaluate"]
    require_effect(
        click.get_current_context(),
        {
            **without_tasks(more),
            "lower_is_better": of_function,
            "device": "" if scored else _ON_CPU,
        },
    )
    if more["ray_address"] is None:  # other machines may have what this one has not
        require_device(more["device"])
    merge_options = {
        parameter.name: more[parameter.name]
        for parameter in _MERGEKIT_OPTIONS
        if parameter.name and more[parameter.name] != parameter.default
    }
    try:
        report = compare_recipe(
            recipe,
            out,
            partial(_evaluation, more),
            methods=methods,
            fixed=_by_place(fixed),
            swept=_swept(sweep, methods),
            recipes=recipes,
            merge_options=merge_options,
            keep=keep,
            quiet=quiet,
            on=ray_of(more),
        )
    except KeyboardInterrupt:
        raise click.ClickException(
            f"interrupted; the same command goes on with what is in {out}"
        ) from None
    show(report, quiet=quiet)
    if report.failed:
        sys.exit(1)


_ON_CPU = (
    "needs --tasks or --evaluate: measures of the weights are taken on the processor"
)
# Options of mergekit-yaml that mean something else here, or nothing.
_NOT_PASSED = {"config_file", "out_path", "device", "quiet", "verbosity"}
_MERGEKIT_OPTIONS = [p for p in run_yaml.main.params if p.name not in _NOT_PASSED]
compare.params += _MERGEKIT_OPTIONS


def _by_place(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    places: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        place, _, parameter = name.rpartition(".")
        places.setdefault(place, {})[parameter] = value
    return places


def _swept(
    sweep: Mapping[str, Sequence[Any]], methods: Sequence[str]
) -> dict[str, dict[str, Any]]:
    given = _by_place({name: sweep[name] for name in sweep if name != AUTO})
    if AUTO not in sweep:
        return given
    if "" in given:
        raise click.UsageError(
            f"--sweep {AUTO} goes with values for single methods only, such as "
            "--sweep ties.lambda=…"
        )
    return automatic_sweep(methods) | given


def _evaluation(more: Mapping[str, Any], inputs: Inputs) -> Evaluation:
    if more["evaluate"]:
        return Function(
            more["evaluate"],
            more["lower_is_better"],
            more["device"],
            trust_remote_code=bool(more.get("trust_remote_code")),
        )
    if not more["tasks"]:
        return WeightMetrics(inputs)
    return harness_of(
        more,
        lambda: inputs.find(inputs.base),
        more["device"],
        more["validation_tasks"],
    )
