"""What commands print, as pictures for the README.

``python -m experiments.pictures`` runs ``mergekit-pcb check`` on a recipe with mistakes
and saves what appears on the screen. The other pictures are written by the commands
themselves (``inspect --out``, ``compare``).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from mergekit_pcb.cli import main as mergekit_pcb

RESULTS = Path(__file__).parent / "results"
RECIPE = """\
models:
  - model: HuggingFaceH4/zephyr-7b-beta
    parameters:
      weight: 1.0
      densty: 0.3
  - model: meta-math/MetaMath-Mistral-7B
    parameters:
      density: 30
merge_method: pcb
base_model: mistralai/Mistral-7B-v0.1
parameters:
  lambda: 1.2
  clamp: 0.01
  normalize: true
dtype: bfloat16
"""
_MARGIN = 1


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default=True,
    help="Folder for check.svg.",
)
def main(out: Path) -> None:
    """Save what `mergekit-pcb check` prints as a picture."""
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with _folder_of_its_own():
        Path("recipe.yml").write_text(RECIPE, encoding="utf-8")
        picture = screen("check", "recipe.yml")
    (out / "check.svg").write_text(picture, encoding="utf-8")
    click.echo(f"wrote {out / 'check.svg'}")


@contextmanager
def _folder_of_its_own() -> Iterator[None]:
    # A command names files as it was given them, and a picture has no room for folders.
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def screen(*arguments: str) -> str:
    """A terminal in which the command has just run, as SVG.

    Raises:
        RuntimeError: the command broke; that it found something is no such case.
    """
    ran = CliRunner().invoke(mergekit_pcb, list(arguments), color=True)
    if ran.exit_code > 1 or not isinstance(ran.exception, (SystemExit, type(None))):
        raise RuntimeError(f"{arguments} ended with {ran.exit_code}: {ran.output}")
    command = Text(f"$ mergekit-pcb {' '.join(arguments)}", style="bold")
    lines = [command, *Text.from_ansi(ran.output.rstrip("\n")).split("\n")]
    width = max(line.cell_len for line in lines) + _MARGIN
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False)
    for line in lines:
        console.print(line, no_wrap=True)
    svg = console.export_svg(title="mergekit-pcb", unique_id=arguments[0])
    # Rich's font is from elsewhere, which an image in a page may not load.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    main()
