"""``mergekit-pcb inspect``: what happens inside a merge."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path

import click
from mergekit.options import MergeOptions, PrettyPrintHelp, add_merge_options

from mergekit_pcb.errors import PCBError
from mergekit_pcb.inspect.collect import inspect_recipe
from mergekit_pcb.inspect.files import as_json, write_report
from mergekit_pcb.inspect.terminal import show
from mergekit_pcb.output.atomic import complete_or_absent
from mergekit_pcb.output.command_line import hide_options_of_writing
from mergekit_pcb.output.device import require_device
from mergekit_pcb.output.error_lines import one_line_errors
from mergekit_pcb.output.figures import why_no_figures
from mergekit_pcb.output.places import require_room
from mergekit_pcb.output.text import echo
from mergekit_pcb.plugin.parameters import PARAMETERS, SCOPES
from mergekit_pcb.printable import printable

# Bytes of page, pictures and data together; more with more settings.
_REPORT_SIZE = 3e6


def _checked_densities(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> list[float]:
    (density,) = (p for p in PARAMETERS if p.name == "density")
    try:
        return [density.validate(value) for value in values]
    except PCBError as error:
        raise click.BadParameter(error.message) from error


@click.command(cls=PrettyPrintHelp)
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write index.html, pictures, inspect.json and tensors.csv there.",
)
@click.option(
    "--density",
    "densities",
    callback=_checked_densities,
    multiple=True,
    metavar="R",
    help="Another density to look at; may be repeated.",
)
@click.option(
    "--scope",
    type=click.Choice((*SCOPES, "both")),
    help="Another scope to look at, beside the recipe's.",
)
@click.option(
    "--base",
    metavar="MODEL",
    help="The model that the others were made from, if the recipe does not say so.",
)
@click.option("--layers", is_flag=True, help="Print a table of layers, too.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="Tables for people, or one JSON object.",
)
@add_merge_options
def inspect(
    recipe: str,
    out: Path | None,
    densities: Sequence[float],
    scope: str | None,
    base: str | None,
    layers: bool,
    layout: str,
    merge_options: MergeOptions,
) -> None:
    """Show what a merge RECIPE would do to its models, without merging them.

    Streams the models as a merge would, writes none, and prints: how far each has
    moved from the base and in which direction, where they disagree, and what
    PCB-Merging makes of it: who keeps and who wins how much, and how long the merged
    task vector is beside the mean. Recipes for other methods are looked at with pcb's
    default settings.

    \b
    $ mergekit-pcb inspect recipe.yml --scope both --density 0.2 --out report
    $ open report/index.html

    Densities and scopes given here are looked at beside the recipe's own, each with
    each; the recipe's come first. `scope: model` takes three more passes over the
    models, another density no more than a little arithmetic.
    """  # noqa: D301 - click wants the character itself
    merge_options.apply_global_options()  # type: ignore[no-untyped-call]
    with (
        one_line_errors(recipe, verbose=merge_options.verbosity > 0),
        _silent_libraries() if merge_options.quiet else nullcontext(),
    ):
        require_device(merge_options.device, multi_gpu=merge_options.multi_gpu)
        if out is not None:
            if missing := why_no_figures():
                raise PCBError(missing)
            require_room(out, _REPORT_SIZE, "the files of the report")
        with complete_or_absent(out) if out else nullcontext() as unfinished:
            found = inspect_recipe(
                recipe,
                merge_options,
                densities=densities,
                scopes=SCOPES if scope == "both" else (scope,) if scope else (),
                base=base,
                out=out,
            )
            # First, so that a report that cannot be written does not lose it.
            if layout == "json":
                echo(as_json(found), newline=False)
            else:
                show(found, layers=layers, legend=not merge_options.quiet)
            if unfinished is not None:
                write_report(found, unfinished)
        if out is not None and layout != "json":
            echo(f"\n{printable(str(out / 'index.html'))} shows more.")


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Without the warnings and progress bars of mergekit, transformers and torch."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


hide_options_of_writing(inspect)
