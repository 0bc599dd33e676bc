"""``mergekit-pcb search``: method, settings and weights, without merging again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from mergekit.options import MergeOptions, PrettyPrintHelp, add_merge_options

from mergekit_pcb.compare.harness_options import (
    add_harness_options,
    harness_of,
    without_tasks,
)
from mergekit_pcb.compare.ray_options import add_ray_options, ray_of
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.command_line import (
    hide_options_of_writing,
    require_effect,
    words,
)
from mergekit_pcb.suggestions import did_you_mean


def _pairs(
    _: click.Context, __: click.Parameter, values: Sequence[str]
) -> Sequence[str]:
    for pair in values:
        name, _equals, path = pair.partition("=")
        if not (name.strip() and path.strip()):
            raise click.BadParameter(f"write NAME=FILE, not `{pair}`")
    return values


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
    "--agreement",
    is_flag=True,
    help="Choose by agreement with the experts.  [the default]",
)
@click.option(
    "--inputs",
    "pairs",
    callback=_pairs,
    multiple=True,
    metavar="NAME=FILE",
    help="Inputs of an expert for --agreement, one a line (or .jsonl with the key "
    "`text`); NAME is the last part of the model's name. Language models without "
    "any generate their own.",
)
@click.option(
    "--count",
    type=click.IntRange(min=4),
    metavar="N",
    help="Inputs of each expert.  [default: 64 of a file, 16 generated]",
)
@click.option(
    "--tasks",
    callback=words,
    metavar="A,B,…",
    help="Choose by these tasks of lm-evaluation-harness instead.",
)
@add_harness_options
@click.option(
    "--evaluate",
    metavar="MODULE:FUNCTION",
    help="Choose by your own function, which returns numbers by name. It gets the "
    "model in memory if its parameter is named `model`, or else a folder. If it takes "
    "`split`, it gets `validation` or `test`.",
)
@click.option(
    "--lower-is-better",
    callback=words,
    default="",
    metavar="A,B,…",
    help="Names from --evaluate. Losses and perplexities are known by name.",
)
@click.option(
    "--also",
    callback=words,
    default="",
    metavar="A,B,…",
    help="Other methods of mergekit, such as ties,dare_ties: each is merged with the "
    "settings of `mergekit-pcb compare --sweep auto` and scored like the others.",
)
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    metavar="N",
    help="Evaluations for one weight for each model, after the grid; needs --inputs "
    "for all models, --tasks or --evaluate.  [default: 0, weights stay]",
)
@click.option(
    "--per-group",
    type=click.Choice(["kind", "depth"]),
    help="With --budget: three weights for each model instead of one. `kind`: of "
    "attention, MLP, and others. `depth`: at the first layer, the middle and the last, "
    "between which mergekit interpolates.",
)
@click.option(
    "--bounds",
    type=(float, float),
    default=(0.5, 3.0),
    show_default=True,
    help="Of the factors on the recipe's weights.",
)
@click.option(
    "--seed",
    # Of `cma`, which takes no other numbers.
    type=click.IntRange(0, 2**32 - 2),
    default=0,
    show_default=True,
)
@add_ray_options
@add_merge_options
def search(
    recipe: str,
    out: Path,
    seed: int,
    also: Sequence[str],
    budget: int | None,
    per_group: str | None,
    bounds: tuple[float, float],
    merge_options: MergeOptions,
    **more: Any,
) -> None:
    """Find method, settings and weights for the models of RECIPE.

    Tries pcb with several densities and both scopes, and task_arithmetic, each with
    several lambdas, and writes the best as DIR/best.yml, which mergekit-yaml merges.
    None of these is merged: each is a scaled addition to a model in memory. Methods
    named by --also are merged by mergekit, one at a time, and scored like the others.

    \b
    $ mergekit-pcb search recipe.yml --out found
    $ mergekit-yaml found/best.yml merged/

    The best is the one that agrees most with the experts (smallest mean KL of their
    predictions from the merge's), on texts that they generate or on --inputs. This
    needs no labels. With labels, choose by --tasks or --evaluate. The same command
    resumes an interrupted search. DIR gets search.html with the course of the search.
    """  # noqa: D301 - click wants the character itself
    # They take seconds to import, which a usage error need not.
    from mergekit_pcb.search.recipe import search_recipe
    from mergekit_pcb.search.terminal import show
    from mergekit_pcb.search.weights import Budget

    ways = [bool(more["tasks"]), bool(more["evaluate"])]
    if sum(ways) > 1 or (any(ways) and (more["agreement"] or more["pairs"])):
        raise click.UsageError(
            "choose by one of --agreement (with --inputs), --tasks and --evaluate"
        )
    require_effect(click.get_current_context(), _without_effect(more, budget))
    merge_options.apply_global_options()  # type: ignore[no-untyped-call]
    quiet = merge_options.quiet
    try:
        report = search_recipe(
            recipe,
            out,
            partial(_objective, more, seed, bool(budget), merge_options),
            merge_options=merge_options,
            budget=Budget(budget, *bounds, seed) if budget else None,
            per_group=per_group,
            also=also,
            on=ray_of(more),
            seed=seed,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        raise click.ClickException(
            f"interrupted; the same command goes on with what is in {out}"
        ) from None
    show(report, quiet=quiet)


# What the harness would do with these, had it to load the model.
_OF_LOADING = (
    "pretrained",
    "dtype",
    "revision",
    "subfolder",
    "parallelize",
    "device_map",
    "peft",
    "delta",
    "backend",
)


def _without_effect(more: Mapping[str, Any], budget: int | None) -> dict[str, str]:
    by_agreement = not (more["tasks"] or more["evaluate"])
    weights = "is about weights: give --budget N as well"
    return {
        "per_group": "" if budget else weights,
        "bounds": "" if budget else weights,
        **without_tasks(more),
        "lower_is_better": "" if more["evaluate"] else "is for --evaluate",
        "count": "" if by_agreement else "is for --agreement",
    }


def _objective(
    more: Mapping[str, Any],
    seed: int,
    tunes: bool,
    options: MergeOptions,
    inputs: Any,
    scratch: Path,
) -> Any:
    from mergekit_pcb.compare.function import Function
    from mergekit_pcb.search.agreement import Agreement
    from mergekit_pcb.search.objective import ByFolder, ByModel

    def base() -> Path:
        found: Path = inputs.find(inputs.base)
        return found

    if more["evaluate"]:
        function = Function(more["evaluate"], more["lower_is_better"])
        if function.takes_model:
            return ByModel(function)
        return ByFolder(function, scratch, base)
    if more["tasks"]:
        loading = [name for name in more["model_args"] if name in _OF_LOADING]
        if loading:
            raise PCBError(
                f"--model-args {loading[0]}: a search loads the model itself, in "
                "float32, so leave it out"
            )
        trusted = {"trust_remote_code": options.trust_remote_code}
        return ByModel(harness_of({**more, **trusted}, base, options.device))
    agreement = Agreement(
        base(),
        {name: partial(inputs.find, model) for name, model in inputs.experts.items()},
        _files(more["pairs"], inputs.experts),
        more["count"] or 0,
        seed,
        options.device or "cpu",
        scratch,
        splits=tunes,
        trust_remote_code=options.trust_remote_code,
    )
    if tunes and not agreement.can_tune_weights:
        raise PCBError(
            "--budget needs labels or real inputs: give --inputs for every model, or "
            "--tasks or --evaluate. On texts that models generate, other weights made "
            "the merge worse"
        )
    return agreement


def _files(pairs: Sequence[str], experts: Collection[str]) -> dict[str, Path]:
    """The file of each expert that has one, from NAME=FILE."""
    files: dict[str, Path] = {}
    for pair in pairs:
        # A name may have the character, too.
        cuts = [i for i, character in enumerate(pair) if character == "="]
        names = [pair[:cut].strip() for cut in cuts]
        name = next((n for n in reversed(names) if n in experts), names[0])
        if name not in experts:
            hint = did_you_mean(name, experts) or f"models: {', '.join(experts)}"
            raise PCBError(f"--inputs: the recipe has no model `{name}`; {hint}")
        if name in files:
            raise PCBError(
                f"--inputs: {name} has two files: write all its inputs into one"
            )
        files[name] = Path(pair[cuts[names.index(name)] + 1 :].strip())
    return files


hide_options_of_writing(search, shown=("random_seed",))
for _option in search.params:
    if isinstance(_option, click.Option) and _option.name == "device":
        _option.help = "Where to merge and to evaluate, such as cuda:0."
