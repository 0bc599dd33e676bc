"""What commands print, and one picture that they draw, for the documentation.

``python -m experiments.pictures`` trains the demo's models in a temporary folder, runs
the commands there, and saves what appears on the screen; ``python -m
experiments.pictures check`` makes one of the pictures. No network is needed.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from mergekit_pcb.cli import main as mergekit_pcb

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
WRONG_RECIPE = """\
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
DEMO_RECIPE = "pcb-demo/recipes/pcb.yml"
COMMANDS = {
    "check": "check recipe.yml",
    "doctor": "doctor",
    "demo": "demo --quiet",
    "inspect": f"inspect {DEMO_RECIPE} --scope both --out report",
    "compare": f"compare {DEMO_RECIPE} --out comparison --quiet",
}
# These look at the models that the demo leaves.
AFTER_DEMO = {"demo", "inspect", "compare"}
# One of the pictures of `inspect --out`.
WINNERS = "winners-*model*.png"
_COLUMNS = 88
_MARGIN = 1


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(tuple(COMMANDS)))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=PICTURES,
    show_default=True,
    help="Folder for the pictures.",
)
def main(names: Sequence[str], out: Path) -> None:
    """Save what the commands of `mergekit-pcb` print as pictures: NAMES, or all."""
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    names = names or tuple(COMMANDS)
    with _temporary_folder():
        Path("recipe.yml").write_text(WRONG_RECIPE, encoding="utf-8")
        if "demo" not in names and AFTER_DEMO.intersection(names):
            screen("demo", "--quiet")
        for name in (name for name in COMMANDS if name in names):
            picture = screen(*COMMANDS[name].split())
            (out / f"{name}.svg").write_text(picture, encoding="utf-8")
            click.echo(f"wrote {out / f'{name}.svg'}")
        if "inspect" in names:
            (winners,) = Path("report").glob(WINNERS)
            shutil.copyfile(winners, out / "inspect-winners.png")
            click.echo(f"wrote {out / 'inspect-winners.png'}")


@contextmanager
def _temporary_folder() -> Iterator[None]:
    # A command prints file names as they were given to it; short ones fit a picture.
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def screen(*arguments: str) -> str:
    """A terminal in which the command has just run, as SVG.

    Progress bars, which the commands write to standard error, are left out, and the
    checkout is called ``~/mergekit-pcb``.

    Raises:
        RuntimeError: the command failed. Findings of `check` are no failure.
    """
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(_COLUMNS)}
    ran = CliRunner(env=terminal).invoke(mergekit_pcb, list(arguments), color=True)
    if ran.exit_code > 1 or not isinstance(ran.exception, (SystemExit, type(None))):
        raise RuntimeError(f"{arguments} ended with {ran.exit_code}: {ran.output}")
    printed = ran.stdout.replace(str(ROOT), "~/mergekit-pcb").rstrip("\n")
    command = Text(f"$ mergekit-pcb {' '.join(arguments)}", style="bold")
    # Rich cuts off the descenders of the last line.
    lines = [command, *Text.from_ansi(printed).split("\n"), Text()]
    width = max(line.cell_len for line in lines) + _MARGIN
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False)
    for line in lines:
        console.print(line, no_wrap=True)
    svg = console.export_svg(title="mergekit-pcb", unique_id=arguments[0])
    # Rich's font is loaded from the network, which an image in a page may not do.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    main()
