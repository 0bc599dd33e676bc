"""`mergekit-pcb convert`: a recipe of another method as the `pcb` recipe it means."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write FILE instead of printing the recipe.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option(
    "--base",
    metavar="MODEL",
    help="The model that the others were fine-tuned from, for methods whose recipes "
    "need not say it, such as linear.",
)
def convert(recipe: str, out: Path | None, force: bool, base: str | None) -> None:
    """Write a RECIPE of another method as the pcb recipe that means the same.

    Reads recipes for ties, dare_ties, dare_linear, task_arithmetic, linear, della,
    breadcrumbs and every other method that merges any number of models. Models,
    slices, filters, tokenizer, dtype and your comments stay; comments say what was
    changed and why. No weights are read.

    \b
    $ mergekit-pcb convert ties.yml --out pcb.yml
    pcb.yml: written; next:
      mergekit-pcb check pcb.yml
      mergekit-yaml pcb.yml merged/

    Density and lambda get the defaults of pcb, because they mean something else in
    other methods. Weights keep their proportions. RECIPE `-` is the standard input.
    """  # noqa: D301 - click wants the character itself
    # mergekit takes seconds to import, which `--help` need not.
    from mergekit_pcb.convert.conversion import convert_recipe
    from mergekit_pcb.output.error_lines import one_line_errors
    from mergekit_pcb.output.recipe_file import deliver, require_free
    from mergekit_pcb.recipes.reading import recipe_text

    require_free(out, force=force)
    name = "stdin" if recipe == "-" else recipe
    with one_line_errors(name, verbose=False):
        converted = convert_recipe(recipe_text(recipe), name, base)
    advice = [f"{found.message}; {found.fix}" for found in converted.findings]
    deliver(converted.text, out, command=converted.command, advice=advice)
