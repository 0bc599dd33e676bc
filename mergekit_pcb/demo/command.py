"""``mergekit-pcb demo``: train four tiny models, merge them, and compare."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any, NamedTuple

import click
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.demo.report import Row, introduction, notes, results_table
from mergekit_pcb.demo.tasks import DOMAINS, Item, held_out
from mergekit_pcb.errors import PCBError

TEST_ITEMS, VALIDATION_ITEMS = 500, 200

_MARKER = ".mergekit-pcb-demo"
# The marker is last, so that what an interrupted removal leaves is still a demo.
_OWN_ENTRIES = ("models", "recipes", "merged", "results.json", _MARKER)


class Merge(NamedTuple):
    """A merge method and its settings."""

    method: str
    parameters: dict[str, float]

    @property
    def settings(self) -> str:
        """The settings in words."""
        return ", ".join(f"{name} {value:g}" for name, value in self.parameters.items())


UNTUNED = (
    Merge("pcb", {"density": 0.1, "lambda": 1.0}),
    Merge("ties", {"density": 0.2, "lambda": 1.0}),
    Merge("dare_ties", {"density": 0.5, "weight": 0.4}),
    Merge("task_arithmetic", {"weight": 0.4}),
    Merge("linear", {}),
)
"""Every method with settings published for it or in common use."""

_DENSITIES, _SCALES = (0.1, 0.2, 0.5), (0.7, 1.0, 1.4)
GRID: dict[str, dict[str, Sequence[float]]] = {
    "pcb": {"density": _DENSITIES, "lambda": _SCALES},
    "ties": {"density": _DENSITIES, "lambda": _SCALES},
    "dare_ties": {"density": _DENSITIES, "weight": (0.28, 0.4, 0.56)},
    "task_arithmetic": {"weight": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)},
}
"""Nine settings for every method that can be tuned: ``linear`` is a plain average."""

Items = Mapping[str, Sequence[Item]]
# Opens a progress bar of so many steps; what it returns ends a step, with a note.
OpenBar = Callable[[str, int], Callable[[str], None]]


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="pcb-demo",
    show_default=True,
    metavar="FOLDER",
    help="Where models, recipes and merges go.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Another seed trains other models.",
)
@click.option("--force", is_flag=True, help="Replace an earlier demo in FOLDER.")
@click.option("--quiet", is_flag=True, help="Print the table and its notes only.")
def demo(out: Path, seed: int, force: bool, quiet: bool) -> None:
    """Train four tiny models, merge them with five methods, and compare.

    Takes one or two minutes on an ordinary processor and downloads nothing. A small
    Llama learns a little of three made-up languages; three specialists go on from it
    with one language each; mergekit merges them with pcb, ties, dare_ties,
    task_arithmetic and linear; and a table says how many held-out words every model
    gets right.

    Everything stays in FOLDER: `models` and `merged` hold ordinary Hugging Face
    folders, and `recipes` what mergekit-yaml was given for each merge.
    """
    screen = Console(highlight=False)
    screen.width = min(80, screen.width)
    with _demo_folder(out, force):
        if not quiet:
            screen.print(introduction())
        with _progress(quiet) as open_bar:
            rows = _run(out.resolve(), seed, open_bar)
        _write_results(out / "results.json", seed, rows)
    screen.print(results_table(rows))
    screen.print(notes(rows, TEST_ITEMS, VALIDATION_ITEMS))
    if not quiet:
        _show_what_to_do_next(out)


@contextmanager
def _demo_folder(out: Path, force: bool) -> Iterator[None]:
    """Make ``out`` a folder for the demo, and undo that if the demo does not end well.

    Raises:
        PCBError: ``out`` holds something that is not to be replaced, or cannot be
            written to.
    """
    existed = out.exists()
    try:
        if existed and any(out.iterdir()):
            if not (out / _MARKER).exists():
                raise PCBError(
                    f"{out} is neither empty nor a demo: choose another folder "
                    "with --out"
                )
            if not force:
                raise PCBError(
                    f"{out} holds a demo already: replace it with --force, or choose "
                    "another folder with --out"
                )
            _remove_demo(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARKER).touch()
    except OSError as error:
        raise PCBError(f"cannot write to {out}: {error.strerror}") from error
    try:
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


@contextmanager
def _progress(quiet: bool) -> Iterator[OpenBar]:
    with Progress(
        TextColumn("{task.description:19}"),
        BarColumn(25),
        TextColumn("{task.completed:>3.0f}/{task.total:<3.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=quiet,
    ) as progress:

        def open_bar(description: str, total: int) -> Callable[[str], None]:
            bar = progress.add_task(description, total=total, note="")
            return lambda note: progress.update(bar, advance=1, note=note)

        yield open_bar


@contextmanager
def _quiet_offline_libraries() -> Iterator[None]:
    """Keep the hub away, and transformers' hints and bars out of the demo's own."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _run(out: Path, seed: int, open_bar: OpenBar) -> list[Row]:
    """Train, merge and test; return the table's rows."""
    loaded = open_bar("loading libraries", 1)
    with _quiet_offline_libraries():
        # Not at the top of this file: --help and refusals do not wait for torch.
        from mergekit import merge_methods

        from mergekit_pcb.demo.models import repeatable, train_all

        # Better said now than after the training.
        if "pcb" not in {
            known.spec.name for known in merge_methods.registered_methods()
        }:
            raise PCBError(
                "mergekit did not take the method `pcb`: run `mergekit-pcb doctor`"
            )
        loaded("")
        test = _held_out(seed, "test", TEST_ITEMS)
        validation = _held_out(seed, "validation", VALIDATION_ITEMS)
        with repeatable(seed):
            train_all(out / "models", Random(seed), open_bar)  # noqa: S311 - no secret
            return [
                *_test_models(out, test, open_bar),
                *_merge_untuned(out, seed, test, open_bar),
                *_merge_tuned(out, seed, test, validation, open_bar),
            ]


def _held_out(seed: int, split: str, count: int) -> Items:
    rng = Random(f"{seed} {split}")  # noqa: S311 - no secret
    return {domain: held_out(domain, count, rng, split) for domain in DOMAINS}


def _test_models(out: Path, test: Items, open_bar: OpenBar) -> Iterator[Row]:
    from mergekit_pcb.demo.models import accuracies

    tick = open_bar("testing", 1 + len(DOMAINS))
    yield Row("base", "base", "", accuracies(out / "models" / "base", test))
    tick("base")
    for domain in DOMAINS:
        scores = accuracies(out / "models" / domain, test)
        yield Row("specialist", "specialist", domain, scores)
        tick(domain)


def _merge_untuned(
    out: Path, seed: int, test: Items, open_bar: OpenBar
) -> Iterator[Row]:
    from mergekit_pcb.demo.models import accuracies

    tick = open_bar("merging", len(UNTUNED))
    for merge in UNTUNED:
        merged = _merge(out, merge.method, merge, seed)
        yield Row("untuned", merge.method, merge.settings, accuracies(merged, test))
        tick(merge.method)


def _merge_tuned(
    out: Path, seed: int, test: Items, validation: Items, open_bar: OpenBar
) -> Iterator[Row]:
    from mergekit_pcb.demo.models import accuracies

    tick = open_bar("tuning", sum(len(_candidates(method)) for method in GRID))
    for method in GRID:
        name = f"{method}-tuned"
        means: dict[float, Merge] = {}
        for merge in _candidates(method):
            merged = _merge(out, name, merge, seed)
            # The first of equals stays.
            means.setdefault(mean(accuracies(merged, validation).values()), merge)
            tick(method)
        best = means[max(means)]
        # Once more, because the last candidate's files are there now.
        scores = accuracies(_merge(out, name, best, seed), test)
        yield Row("tuned", method, best.settings, scores)


def _candidates(method: str) -> list[Merge]:
    grid = GRID[method]
    return [
        Merge(method, dict(zip(grid, values, strict=True)))
        for values in itertools.product(*grid.values())
    ]


def _merge(out: Path, name: str, merge: Merge, seed: int) -> Path:
    """Write a recipe, run it as mergekit-yaml does, and return the merged model."""
    from mergekit.scripts import run_yaml

    from mergekit_pcb.output.atomic import complete_or_absent

    options = ["--random-seed", str(seed)] if merge.method == "dare_ties" else []
    again = " ".join(["mergekit-yaml", f"{name}.yml", "OUTPUT_FOLDER", *options])
    recipe = out / "recipes" / f"{name}.yml"
    write_file(recipe, f"# {again}\n{_recipe(merge, out / 'models')}")
    with complete_or_absent(out / "merged" / name) as folder:
        run_yaml.main.main(
            [str(recipe), str(folder), "--quiet", *options], standalone_mode=False
        )
    return out / "merged" / name


def _recipe(merge: Merge, models: Path) -> str:
    # Absolute paths let the recipe run from every folder, and mergekit would ask the
    # hub about a relative one that looks like `owner/model`.
    recipe: dict[str, Any] = {"merge_method": merge.method}
    if merge.method != "linear":
        recipe["base_model"] = str(models / "base")
    recipe["models"] = [{"model": str(models / domain)} for domain in DOMAINS]
    recipe["parameters"] = {"weight": 1.0, **merge.parameters}
    recipe["dtype"] = "float32"
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=10_000)


def _write_results(file: Path, seed: int, rows: Sequence[Row]) -> None:
    packages = ("mergekit-pcb", "mergekit", "torch", "transformers")
    results = {
        "seed": seed,
        "versions": {package: _version(package) for package in packages},
        "items_per_domain": {"test": TEST_ITEMS, "validation": VALIDATION_ITEMS},
        "rows": [row._asdict() for row in rows],
    }
    write_file(file, json.dumps(results, indent=2) + "\n")


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _show_what_to_do_next(out: Path) -> None:
    # Plain echo: what is there to be copied must not be wrapped.
    recipe = out / "recipes" / "pcb.yml"
    click.echo(f"\nEverything is in {out}: models, recipes, merged, results.json.")
    click.echo("This recipe made the untuned pcb row; change it and run it again:\n")
    click.echo(recipe.read_text(encoding="utf-8").partition("\n")[2])
    command = shlex.join([_mergekit_yaml(), str(recipe), "my-merge"])
    click.echo(f"  {command}")


def _mergekit_yaml() -> str:
    """What to type to run it: its path, where the environment is not activated."""
    ours = Path(sysconfig.get_path("scripts"), "mergekit-yaml")
    found = shutil.which("mergekit-yaml")
    if found and Path(found).parent == ours.parent:
        return "mergekit-yaml"
    inside = ours.is_relative_to(Path.cwd())
    return str(ours.relative_to(Path.cwd()) if inside else ours)
