"""What the command lines of several tools have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

# Options of mergekit's that say how to write a merge, or how to draw at random.
_OF_WRITING = (
    "out_shard_size",
    "copy_tokenizer",
    "clone_tensors",
    "random_seed",
    "write_model_card",
    "safe_serialization",
    "async_write",
    "write_threads",
)


def require_effect(context: click.Context, reasons: Mapping[str, str]) -> None:
    """Refuse options on the command line that would do nothing.

    Args:
        context: of the command.
        reasons: by the name of a parameter, why it has no effect; empty if it has one.

    Raises:
        click.UsageError: names such an option.
    """
    given = click.core.ParameterSource.COMMANDLINE
    for name, reason in reasons.items():
        if reason and context.get_parameter_source(name) is given:
            raise click.UsageError(f"--{name.replace('_', '-')} {reason}")


def words(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    """Click's callback for a list with commas, each word once."""
    parts = [word.strip() for word in (value or "").split(",")]
    return [word for word in dict.fromkeys(parts) if word]


def hide_options_of_writing(command: click.Command, shown: Sequence[str] = ()) -> None:
    """Leave out of the help what has no effect where no merge is written.

    A command line for a merge is accepted as it is.

    Args:
        command: with the options of a merge.
        shown: names of options that have an effect.
    """
    hidden = set(_OF_WRITING) - set(shown)
    for option in command.params:
        if isinstance(option, click.Option) and option.name in hidden:
            option.hidden = True
