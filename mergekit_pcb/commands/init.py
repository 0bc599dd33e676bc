"""`mergekit-pcb init`: a first recipe."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("base")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write FILE instead of printing the recipe.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def init(base: str, models: tuple[str, ...], out: Path | None, force: bool) -> None:
    """Write a first recipe that merges each MODEL, fine-tuned from BASE, into it.

    A model is a folder here, or `owner/name` on the Hugging Face hub; `name@revision`
    is one version of it, and `base+adapter` a model with its LoRA adapter. The recipe
    sets no parameters: the defaults of pcb need no tuning. The hub is not asked.

    \b
    $ mergekit-pcb init mistralai/Mistral-7B-v0.1 \\
        HuggingFaceH4/zephyr-7b-beta meta-math/MetaMath-Mistral-7B --out recipe.yml
    recipe.yml: written; next:
      mergekit-pcb check recipe.yml
      mergekit-yaml recipe.yml merged/
    """  # noqa: D301 - click wants the character itself
    # mergekit takes seconds to import, which `--help` need not.
    from mergekit_pcb.commands.first_recipe import first_recipe
    from mergekit_pcb.output.error_lines import one_line_errors
    from mergekit_pcb.output.recipe_file import deliver, require_free

    require_free(out, force=force)
    with one_line_errors(str(out or "recipe.yml"), verbose=False):
        first = first_recipe(base, models)
    deliver(first.text, out, options=first.options, advice=first.advice)
