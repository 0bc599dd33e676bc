"""``mergekit-pcb merge``: mergekit-yaml's own command, all or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from mergekit import merge_methods
from mergekit.options import PrettyPrintHelp
from mergekit.scripts import run_yaml

from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.atomic import complete_or_absent
from mergekit_pcb.output.error_lines import one_line_errors
from mergekit_pcb.plugin import statistics_file


@click.command(cls=PrettyPrintHelp)
@click.option(
    "--save-statistics",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the whole-model statistics of scope: model to FILE, which another "
    "merge of the same models reads by the parameter `statistics`",
)
@click.pass_context
def merge(
    context: click.Context,
    /,
    config_file: str,
    out_path: str,
    save_statistics: Path | None,
    **options: Any,
) -> None:
    """Run the recipe CONFIG_FILE and write the model to OUT_PATH. Takes what
    mergekit-yaml takes, and needs no start-up file. OUT_PATH appears when the model is
    complete; -v shows where an error came from.
    """  # noqa: D205 - click prints one paragraph
    with one_line_errors(config_file, verbose=options["verbosity"] > 0):
        _require_pcb()
        with (
            _saving_statistics(save_statistics),
            complete_or_absent(Path(out_path)) as unfinished,
        ):
            context.invoke(
                run_yaml.main,
                config_file=config_file,
                out_path=str(unfinished),
                **options,
            )


merge.params[:0] = run_yaml.main.params


def _require_pcb() -> None:
    # Importing this package has registered the method or said why it could not.
    if "pcb" not in {m.spec.name for m in merge_methods.registered_methods()}:
        raise PCBError(
            "mergekit did not take the method `pcb`: run `mergekit-pcb doctor`"
        )


@contextmanager
def _saving_statistics(path: Path | None) -> Iterator[None]:
    if path is not None:
        # Statistics take minutes: what cannot be written is better known before.
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    before = statistics_file.save_to.set(path)
    try:
        yield
    finally:
        statistics_file.save_to.reset(before)
