"""The options of commands that evaluate by tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from mergekit_pcb.compare.harness import Harness
from mergekit_pcb.compare.pairs import arguments, pairs

Command = TypeVar("Command", bound=Callable[..., Any])

# In the order of the help, behind `--tasks`, which each command words itself.
_OPTIONS = (
    click.option(
        "--include-path",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="A folder with task files of your own.",
    ),
    click.option("--limit", type=float, help="Only so many items of each task."),
    click.option("--batch-size", default="1", show_default=True, help="Or `auto`."),
    click.option("--num-fewshot", type=int, help="Examples before each item."),
    click.option(
        "--apply-chat-template", is_flag=True, help="Ask as in a conversation."
    ),
    click.option(
        "--model-args",
        callback=arguments,
        metavar="NAME=VALUE,…",
        help="For the harness's model, such as add_bos_token=true.",
    ),
    click.option(
        "--metric",
        callback=pairs,
        multiple=True,
        metavar="TASK=NAME",
        help="The metric of a task.  [default: the first that it lists]",
    ),
)
_NAMES = (
    "include_path",
    "limit",
    "batch_size",
    "num_fewshot",
    "apply_chat_template",
    "model_args",
    "metric",
)


def add_harness_options(command: Command) -> Command:
    """Add what the harness takes besides the names of tasks."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def without_tasks(options: Mapping[str, Any]) -> dict[str, str]:
    """Why the options have no effect, for `require_effect`; empty with tasks."""
    return dict.fromkeys(_NAMES, "" if options["tasks"] else "is for --tasks")


def harness_of(
    options: Mapping[str, Any],
    tokenizer: Callable[[], Path],
    device: str | None,
    validation_tasks: Sequence[str] = (),
) -> Harness:
    """The evaluation that the options ask for.

    Args:
        options: those of `add_harness_options`, and ``tasks``.
        tokenizer: where to find one for models that come without.
        device: where to evaluate a model that is loaded for it; None for an
            accelerator if there is one.
        validation_tasks: those to choose settings by, if not halves of the tasks.

    Raises:
        PCBError: the harness is not installed, or does not know a task.
    """
    passed = ("batch_size", "num_fewshot", "apply_chat_template")
    model_args = dict(options["model_args"])
    if options.get("trust_remote_code"):
        model_args["trust_remote_code"] = True
    return Harness(
        options["tasks"],
        validation_tasks=validation_tasks,
        metrics={task: str(name) for task, name in options["metric"].items()},
        include_path=options["include_path"],
        limit=options["limit"],
        model_args=model_args,
        tokenizer=tokenizer,
        options={"device": device, **{name: options[name] for name in passed}},
    )
