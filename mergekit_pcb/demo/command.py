"""``mergekit-pcb demo``: train five tiny models, merge them, and compare."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import click
import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from safetensors import SafetensorError

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.demo.tasks import DOMAINS, ITEMS, held_out
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.places import require_room
from mergekit_pcb.output.progress import Progress, new_bars

if TYPE_CHECKING:
    from mergekit_pcb.compare.report import Report

METHODS = ("pcb", "ties", "dare_ties", "task_arithmetic", "linear")

_NOTES = f"""
Percent of {ITEMS["test"]} held-out words per language answered without a mistake; * \
is best of its table. % own: in percent of the best expert's. To peer: the mean less \
that of the best merge by another method, and its standard error over the words.
Untuned: published or customary settings; pcb sets no parameter. Tuned: the best of \
six settings per method on {ITEMS["validation"]} other words per language. One seed \
and toy models: another seed gives another order, and nothing follows for other models.
"""

_MARKER = ".mergekit-pcb-demo"
# What the demo has printed, which only a demo that has ended well has.
_TABLES = "tables.txt"
# The marker is last, so that what an interrupted removal leaves is still a demo.
_OWN_ENTRIES = (_TABLES, "models", "recipes", "untuned", "tuned", _MARKER)
# Bytes that the demo writes, with as much again for whatever else writes.
_ROOM = 30e6


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="pcb-demo",
    show_default=True,
    metavar="FOLDER",
    help="Where models, the recipe and the comparisons go.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Another seed trains other models.",
)
@click.option("--force", is_flag=True, help="Make an earlier demo in FOLDER again.")
@click.option("--quiet", is_flag=True, help="Print the tables and their notes only.")
def demo(out: Path, seed: int, force: bool, quiet: bool) -> None:
    """Train five tiny models, merge them with five methods, and compare.

    Takes about a minute on an ordinary processor and downloads nothing. A small Llama
    learns something of four made-up languages; four specialists go on from it with one
    language each; mergekit merges them with pcb, ties, dare_ties, task_arithmetic and
    linear; and tables as of `mergekit-pcb compare` say how many held-out words every
    model gets right.

    Everything stays in FOLDER: `models` holds ordinary Hugging Face folders,
    `recipes/pcb.yml` merges them, and `untuned` and `tuned` hold a report each, with
    the recipe of every merge. Called again, it shows the tables of FOLDER again.

    \b
    $ mergekit-pcb demo
    $ mergekit-pcb inspect pcb-demo/recipes/pcb.yml
    """  # noqa: D301 - click wants the character itself
    with _only_one(out), _readable_errors(out):
        if not force and _is_finished(out, seed):
            click.echo((out / _TABLES).read_text(encoding="utf-8"), nl=False)
        else:
            with _demo_folder(out, seed):
                if not quiet:
                    click.echo(introduction())
                reports = _run(out, seed, quiet=quiet)
                # A file has lines as long as the terminal's, and no colours.
                with redirect_stdout(io.StringIO()) as tables:
                    _show(reports)
                write_file(out / _TABLES, tables.getvalue())
            _show(reports)
    if not quiet:
        _show_what_to_do_next(out)


def _show(reports: dict[str, Report]) -> None:
    from mergekit_pcb.compare.terminal import show

    for title, report in reports.items():
        click.echo(f"\n{title}")
        show(report, quiet=True)
    Console(highlight=False).print(_NOTES.rstrip())


def introduction() -> str:
    """What the four languages are, by example."""
    lines = [
        "Four made-up languages: which letter of a word is first, or last, in the",
        "alphabet? A model reads up to the = and writes the answer:",
    ]
    for domain in DOMAINS:
        item = held_out(domain, 1, Random(0), "train")[0]  # noqa: S311 - no secret
        lines.append(f"  {item.prompt}{item.answer}")
    lines.append(
        "The base has met mostly a part of each alphabet's letters, each specialist\n"
        "all letters of one."
    )
    return "\n".join(lines) + "\n"


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Refuse a second demo of this machine in the same folder at the same time."""
    digest = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"mergekit-pcb-demo-{digest}.lock")
    try:
        with lock.acquire(blocking=False):
            yield
    except Timeout as error:
        raise PCBError(f"another demo is working in {out}: wait until it ends") from (
            error
        )


@contextmanager
def _readable_errors(out: Path) -> Iterator[None]:
    """Say what the disk refuses, and where, in one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise PCBError(f"cannot write to {out}: {reason}") from error


def _is_finished(out: Path, seed: int) -> bool:
    """Whether a demo that has ended well is in a folder, and this seed's.

    Raises:
        PCBError: it is another seed's.
    """
    recipe = out / "recipes" / "pcb.yml"
    if not all((out / name).is_file() for name in (_MARKER, _TABLES)):
        return False
    made_with = (out / _MARKER).read_text(encoding="utf-8").strip()
    if made_with != str(seed):
        raise PCBError(
            f"{out} holds the demo of seed {made_with}: replace it with --force, or "
            "choose another folder with --out"
        )
    # The next commands that are printed need both.
    return recipe.is_file() and (out / "models").is_dir()


@contextmanager
def _demo_folder(out: Path, seed: int) -> Iterator[None]:
    """Make ``out`` a folder for the demo, and undo that if the demo does not end well.

    An earlier demo in it, or what is left of one, is removed.

    Raises:
        PCBError: ``out`` holds something that is not to be replaced, or has too little
            room.
    """
    existed = out.exists()
    if existed and any(out.iterdir()):
        if not (out / _MARKER).exists():
            raise PCBError(
                f"{out} is neither empty nor a demo: choose another folder with --out"
            )
        _remove_demo(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        require_room(out, _ROOM, "a demo's models and reports")
        write_file(out / _MARKER, f"{seed}\n")
        yield
    except BaseException:
        _remove_demo(out)
        if not existed:
            with suppress(OSError):
                out.rmdir()
        raise


def _remove_demo(out: Path) -> None:
    for entry in (out / name for name in _OWN_ENTRIES):
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _keep_libraries_quiet_and_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging as untyped

    logging: Any = untyped
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _run(out: Path, seed: int, *, quiet: bool) -> dict[str, Report]:
    """Train the models and compare their merges; return the reports by title."""
    _keep_libraries_quiet_and_offline()
    with new_bars(Console(stderr=True), hidden=quiet) as bars:

        def open_bar(step: str) -> Progress:
            bar = bars.add_task(step, total=100)
            return lambda percent: bars.update(bar, completed=percent)

        loaded = open_bar("loading libraries")
        # Not at the top of this file: --help and refusals do not wait for torch.
        from mergekit_pcb.demo.models import Accuracy, repeatable, train_all
        from mergekit_pcb.plugin.registered import require_pcb

        require_pcb()  # better said now than after the training
        loaded(100)
        with repeatable(seed):
            train_all(out / "models", Random(seed), open_bar)  # noqa: S311 - no secret
    from mergekit_pcb.compare.grids import automatic_sweep
    from mergekit_pcb.compare.recipe import compare_recipe

    recipe = out / "recipes" / "pcb.yml"
    write_file(recipe, recipe_text(out / "models"))
    shared: dict[str, Any] = {
        "evaluation": lambda _: Accuracy(seed),
        "merge_options": {"random_seed": seed},
        "quiet": quiet,
        # They take a tenth of a second; a process each would take some more.
        "in_this_process": True,
    }
    with repeatable(seed):
        untuned = compare_recipe(
            str(recipe), out / "untuned", methods=METHODS, keep="all", **shared
        )
        tuned = compare_recipe(
            str(recipe),
            out / "tuned",
            methods=METHODS,
            swept=automatic_sweep(METHODS),
            **shared,
        )
    return {"Merges, untuned": untuned, "Merges, tuned": tuned}


def recipe_text(models: Path) -> str:
    """The recipe for pcb, which `compare` turns into those for the other methods."""
    # Absolute paths let the recipe run from every folder, and mergekit would ask the
    # hub about a relative one that looks like `owner/model`.
    folder = models.resolve()
    recipe = {
        "merge_method": "pcb",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / domain)} for domain in DOMAINS],
        "dtype": "float32",
    }
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=10_000)


def _show_what_to_do_next(out: Path) -> None:
    # Plain echo: what is there to be copied must not be wrapped.
    recipe = out / "recipes" / "pcb.yml"
    click.echo(
        f"\nEverything is in {out}: models, recipes/pcb.yml, and for each table a "
        "folder with the report comparison.html and the recipe of every merge."
    )
    click.echo("mergekit-yaml made the untuned pcb row of this recipe:\n")
    click.echo(recipe.read_text(encoding="utf-8"))
    program = shlex.quote(_program())
    click.echo("To do next: see what that merge did, write a recipe for models of your")
    click.echo("own, and find out which merge of them is best:\n")
    click.echo(f"  {program} inspect {shlex.quote(str(recipe))}")
    click.echo(f"  {program} init BASE MODEL MODEL --out recipe.yml")
    click.echo(f"  {program} compare recipe.yml --tasks arc_easy --out comparison")


def _program() -> str:
    """What to type to run it: its path, where the environment is not activated."""
    ours = Path(sysconfig.get_path("scripts"), "mergekit-pcb")
    found = shutil.which("mergekit-pcb")
    if found and Path(found).parent == ours.parent:
        return "mergekit-pcb"
    inside = ours.is_relative_to(Path.cwd())
    return str(ours.relative_to(Path.cwd()) if inside else ours)
