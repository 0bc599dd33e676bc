"""The options of commands whose jobs can run on several machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from mergekit_pcb.compare.cluster import HERE, Ray

Command = TypeVar("Command", bound=Callable[..., Any])


def add_ray_options(command: Command) -> Command:
    """Add ``--ray`` and ``--gpus-per-job``."""
    gpus = click.option(
        "--gpus-per-job",
        type=click.FloatRange(min=0),
        metavar="N",
        help="GPUs that --ray reserves for each job; 0.5 lets two jobs share one.  "
        "[default: 0]",
    )
    address = click.option(
        "--ray",
        "ray_address",
        is_flag=False,
        flag_value=HERE,
        metavar="[ADDRESS]",
        help="Run merges and evaluations as independent jobs of Ray: at an address, "
        "such as `auto` or HOST:6379, or without one on the processors of this "
        "machine. Models must lie on the hub or in folders that all machines share, "
        "and DIR as well.",
    )
    return address(gpus(command))


def ray_of(options: Mapping[str, Any]) -> Ray | None:
    """What the options ask for.

    Raises:
        click.UsageError: GPUs for jobs without Ray.
    """
    address, gpus = options["ray_address"], options["gpus_per_job"]
    if address is None:
        if gpus is not None:
            raise click.UsageError("--gpus-per-job goes with --ray")
        return None
    return Ray(address, gpus or 0)
