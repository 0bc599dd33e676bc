"""The wrappers around mergekit's planning functions.

mergekit has no hook between planning and execution, and a merge method sees one tensor
at a time. So the three functions that return a finished plan are wrapped:
`MergePlanner.plan_to_disk` (mergekit-yaml, mergekit-multi, mergekit-evolve),
`MergePlanner.plan_in_memory` (mergekit-evolve) and `plan_flat_merge`
(mergekit-pytorch). Plans of other methods are returned unchanged.

Of every recipe for `pcb` the inputs are checked, parameters that it does not have are
refused, which mergekit would ignore, and `lambda: auto` is recorded. Under
`scope: model` the statistics are computed and added.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import AUTO
from mergekit_pcb.plugin.unknown_parameters import unknown_parameters

_WRAPPED = "_mergekit_pcb_wraps"


def wrap_planner(plan: ModuleType) -> None:
    """Wrap the planning methods of `mergekit.plan`, unless they are wrapped already.

    Raises:
        AttributeError, TypeError: this mergekit has no such functions.
    """
    planner = plan.MergePlanner
    if "options" not in inspect.signature(planner).parameters:
        raise TypeError("MergePlanner takes no options")

    def read(arguments: dict[str, Any]) -> tuple[Any, Any]:
        return arguments["self"].config, arguments["self"].options

    _wrap(planner, "plan_to_disk", read)
    _wrap(planner, "plan_in_memory", read, one_device=True)


def wrap_raw_planner(merge_raw_pytorch: ModuleType) -> None:
    """Wrap the planning function of `mergekit-pytorch`, unless it is wrapped already.

    Raises:
        AttributeError, TypeError: this mergekit has no such functions.
    """
    if "options" not in inspect.signature(merge_raw_pytorch.plan_flat_merge).parameters:
        raise TypeError("plan_flat_merge takes no options")

    def read(arguments: dict[str, Any]) -> tuple[Any, Any]:
        return arguments["config"], arguments["options"]

    _wrap(merge_raw_pytorch, "plan_flat_merge", read, one_device=True)


def _wrap(
    owner: Any,
    name: str,
    read: Callable[[dict[str, Any]], tuple[Any, Any]],
    *,
    one_device: bool = False,
) -> None:
    """Wrap a function that plans.

    Args:
        owner: its class or module.
        name: of the function.
        read: gets configuration and options from the function's arguments.
        one_device: its plans are executed on ``options.device``, even with
            ``--multi-gpu``.
    """
    original = getattr(owner, name)
    if hasattr(original, _WRAPPED):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def planned(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        config, options = read(arguments)
        if config.merge_method == "pcb":
            for problem in unknown_parameters(config):
                raise PCBError(problem)
            require_plain_file_names(config)
        if one_device:
            options = options.model_copy(update={"multi_gpu": False})
        tasks = original(*args, **kwargs)
        if config.merge_method == "pcb":
            _forget_quantisation(arguments.get("self"))
        return _prepared(tasks, options)

    setattr(planned, _WRAPPED, True)
    setattr(owner, name, planned)


def require_plain_file_names(config: Any) -> None:
    """Refuse files that mergekit-pytorch reads as an adapter or a revision, and drops.

    Args:
        config: of any command; only that of mergekit-pytorch has models as text.

    Raises:
        PCBError: names the file.
    """
    for path in [config.base_model, *(model.model for model in config.models or ())]:
        if isinstance(path, str) and set(path) & set("+@"):
            raise PCBError(
                f"mergekit-pytorch drops {path} in silence: it reads `@` in a path as "
                "a revision and `+` as an adapter; rename it, or link to it"
            )


def _forget_quantisation(planner: Any) -> None:
    """The merged weights are no longer quantised, whatever the base's config says."""
    output: Any = getattr(planner, "out_model_config", None)
    if hasattr(output, "quantization_config"):
        del output.quantization_config


def _prepared(tasks: Sequence[Any], options: Any) -> Sequence[Any]:
    # These import mergekit's planner, whose import this module is called from.
    from mergekit_pcb.plugin import plan_tasks, statistics_file
    from mergekit_pcb.plugin.input_tensors import require_input_tensors
    from mergekit_pcb.plugin.lambda_record import LambdaRecord

    merges = plan_tasks.pcb_tasks(tasks)
    require_input_tensors(merges)
    whole = plan_tasks.whole_model_tasks(tasks)
    if not whole:
        statistics_file.require_no_file(m.parameters["statistics"] for m in merges)
    record = LambdaRecord(quiet=options.quiet)
    if whole:
        tasks = _with_statistics(tasks, whole, options, record)
    automatic = any(merge.parameters["lambda"] == AUTO for merge in merges)
    return plan_tasks.with_lambda_record(tasks, record) if automatic else tasks


def _with_statistics(
    tasks: Sequence[Any], whole: Sequence[Any], options: Any, record: Any
) -> Sequence[Any]:
    from mergekit_pcb.plugin import concentration, plan_tasks, statistics_file
    from mergekit_pcb.plugin.graph_domain import GraphDomain
    from mergekit_pcb.plugin.model_scope import StatisticsRequest

    parameters = [plan_tasks.parameters_of(merge) for merge in whole]
    request = StatisticsRequest.of(parameters)
    file = parameters[0]["statistics"]
    if file is not None:
        # Before the pass over all weights that tells whether the file fits.
        statistics_file.read(Path(file))
    domain = GraphDomain.of(whole, request.models, options)
    if not domain.size:
        return tasks
    statistics = statistics_file.domain_statistics(request, domain, file)
    if not options.quiet:
        for line in concentration.warnings(domain, statistics):
            click.echo(f"PCB: {line}", err=True)
    for bound in parameters:
        if bound["lambda"] == AUTO:
            record.add(statistics.scale(bound))
    return plan_tasks.with_statistics(tasks, statistics, domain.tensor_digests)
