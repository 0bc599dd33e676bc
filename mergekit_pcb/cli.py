"""The command ``mergekit-pcb``; a subcommand's module is imported when it is called."""

from __future__ import annotations

import importlib
import io
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import click

from mergekit_pcb import __version__
from mergekit_pcb.suggestions import did_you_mean

# name -> (the module here that has a click command of this name, its line in --help)
SUBCOMMANDS = {
    "check": ("check.command", "Read a recipe and say what is wrong in it."),
    "compare": (
        "compare.command",
        "Merge by several methods, and say which is best here.",
    ),
    "convert": ("convert.command", "Write a recipe of another method as one for pcb."),
    "demo": ("demo.command", "Train, merge and compare five tiny models."),
    "doctor": ("commands.doctor", "Say whether mergekit accepts `pcb`."),
    "init": ("commands.init", "Write a first recipe for a base and its fine-tunes."),
    "inspect": ("inspect.command", "Show what a recipe would do to its models."),
    "merge": (
        "commands.merge",
        "Merge as mergekit-yaml does, without the start-up file.",
    ),
    "search": (
        "search.command",
        "Find the best settings and weights without merging again.",
    ),
}


class _LazyGroup(click.Group):
    """A group whose help imports no subcommand: torch alone takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        module = importlib.import_module(f"mergekit_pcb.{SUBCOMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # click suggests commands from 8.4 on, and only those that were imported.
        if args[0] not in SUBCOMMANDS and not ctx.resilient_parsing:
            hint = did_you_mean(args[0], SUBCOMMANDS)
            ctx.fail(f"No such command '{args[0]}'" + (f"; {hint}" if hint else "."))
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, SUBCOMMANDS[name][1]) for name in self.list_commands(ctx)]
            )


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mergekit-pcb")
@click.pass_context
def main(ctx: click.Context) -> None:
    """PCB-Merging for mergekit: `merge_method: pcb`, and tools around it."""
    for stream in (sys.stdout, sys.stderr):
        # Names and marks that a terminal has no letters for must not end a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Python lets only the main thread say what a signal does.
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _interrupt)
        ctx.call_on_close(
            lambda: signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        )


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    """Stop as on Ctrl-C, which cleans up; Python's own answer to SIGTERM does not."""
    raise KeyboardInterrupt
