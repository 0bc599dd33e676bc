"""``mergekit-pcb merge``: mergekit-yaml's own command, all or nothing."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions, PrettyPrintHelp
from mergekit.scripts import run_yaml

from mergekit_pcb.check.linter import examine
from mergekit_pcb.commands.after_weights import weights_kept
from mergekit_pcb.commands.room import room_required
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.atomic import complete_or_absent
from mergekit_pcb.output.device import require_device
from mergekit_pcb.output.error_lines import one_line_errors
from mergekit_pcb.output.places import require_apart
from mergekit_pcb.plugin import statistics_file
from mergekit_pcb.plugin.adapters import merge_adapters
from mergekit_pcb.plugin.registered import require_pcb
from mergekit_pcb.recipes.findings import require_no_errors
from mergekit_pcb.recipes.models import local_folders, located
from mergekit_pcb.recipes.reading import recipe_text


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
    mergekit-yaml takes, and needs no start-up file. A recipe in which `mergekit-pcb
    check` finds an error is refused. OUT_PATH appears when the model is complete; -v
    shows where an error came from.

    \b
    $ mergekit-pcb merge recipe.yml merged/ --lazy-unpickle
    """  # noqa: D205, D301 - click prints one paragraph, and wants the character itself
    verbose = options["verbosity"] > 0
    out = Path(out_path)
    with one_line_errors(config_file, verbose=verbose):
        require_pcb()
        parsed = MergeOptions(**options)
        require_device(parsed.device, multi_gpu=parsed.multi_gpu)
        options_for_shapes = ("allow_crimes", "unsafe_truncate_embeddings")
        any_shape = any(options[name] for name in options_for_shapes)
        config, models = _checked(config_file, any_shape=any_shape)
        located_models = map(located, models)
        inputs = [path for model in located_models for path in local_folders(model)]
        require_apart(out, inputs)
        merge_adapters(config.referenced_models(), parsed)
        with (
            _saving_statistics(save_statistics),
            complete_or_absent(out) as unfinished,
            room_required(out),
            weights_kept(unfinished, verbose=verbose),
        ):
            context.invoke(
                run_yaml.main,
                config_file=config_file,
                out_path=str(unfinished),
                **options,
            )


merge.params[:0] = run_yaml.main.params


def _checked(
    file: str, *, any_shape: bool = False
) -> tuple[MergeConfiguration, set[ModelReference]]:
    """A recipe, and all models in it, also those whose tokenizer alone is used.

    Args:
        file: the recipe.
        any_shape: whether an option of mergekit allows models of different shapes.

    Raises:
        PCBError: `check` finds errors in it, or it is for another command.
    """
    findings, documents = examine(recipe_text(file), file)
    kind = documents[0].kind if documents else "yaml"
    if kind != "yaml":
        several = kind == "multi"
        what = "several merges" if several else "files of weights, not model folders"
        options = "-I OUT_FOLDER" if several else "OUT_FOLDER"
        command = f"mergekit-{kind} {shlex.quote(file)} {options}"
        raise PCBError(f"{file} lists {what}: run `{command}`")
    if any_shape:
        findings = [f for f in findings if f.rule != "different-models"]
    require_no_errors(findings, file)
    (document,) = documents
    config = MergeConfiguration.model_validate(document.root.value)
    return config, document.models


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
