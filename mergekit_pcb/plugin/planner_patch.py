"""The one place that reaches into mergekit's planning, for `scope: model`.

Between planning and execution mergekit calls nobody, and a merge method sees one tensor
at a time. So the three functions that return a finished plan are wrapped:
`MergePlanner.plan_to_disk` (mergekit-yaml, mergekit-multi, mergekit-evolve),
`MergePlanner.plan_in_memory` (mergekit-evolve) and `plan_flat_merge`
(mergekit-pytorch). A plan without `scope: model` passes untouched; a recipe for `pcb`
with a parameter that mergekit would drop in silence is refused on the way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.unknown_parameters import unknown_parameters

_WRAPPED = "_mergekit_pcb_wraps"


def wrap_planner(plan: ModuleType) -> None:
    """Wrap what `mergekit.plan` plans with; again does nothing.

    Raises:
        AttributeError, TypeError: mergekit has changed there.
    """
    planner = plan.MergePlanner
    if "options" not in inspect.signature(planner).parameters:
        raise TypeError("MergePlanner takes no options")

    def on_one_device(planner: Any) -> tuple[Any, Any]:
        return planner.config, _on_one_device(planner.options)

    _wrap(planner, "plan_to_disk", lambda b: (b["self"].config, b["self"].options))
    _wrap(planner, "plan_in_memory", lambda b: on_one_device(b["self"]))


def wrap_raw_planner(merge_raw_pytorch: ModuleType) -> None:
    """Wrap what `mergekit-pytorch` plans with; again does nothing.

    Raises:
        AttributeError, TypeError: mergekit has changed there.
    """
    name = "plan_flat_merge"
    if "options" not in inspect.signature(merge_raw_pytorch.plan_flat_merge).parameters:
        raise TypeError(f"{name} takes no options")
    _wrap(
        merge_raw_pytorch, name, lambda b: (b["config"], _on_one_device(b["options"]))
    )


def _on_one_device(options: Any) -> Any:
    # These plans are executed on `device` even with --multi-gpu.
    return options.model_copy(update={"multi_gpu": False})


def _wrap(
    owner: Any, name: str, asked_of: Callable[[dict[str, Any]], tuple[Any, Any]]
) -> None:
    """Wrap what plans; ``asked_of`` gets config and options from its arguments."""
    original = getattr(owner, name)
    if hasattr(original, _WRAPPED):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def planned(*args: Any, **kwargs: Any) -> Any:
        config, options = asked_of(signature.bind(*args, **kwargs).arguments)
        if config.merge_method == "pcb":
            _require_known_parameters(config)
        return _with_statistics(original(*args, **kwargs), options)

    setattr(planned, _WRAPPED, True)
    setattr(owner, name, planned)


def _require_known_parameters(config: Any) -> None:
    for problem in unknown_parameters(config):
        raise PCBError(problem)


def _with_statistics(tasks: Sequence[Any], options: Any) -> Sequence[Any]:
    # These import mergekit's planner, whose import this module is called from.
    from mergekit_pcb.plugin import graph_scope, statistics_file
    from mergekit_pcb.plugin.model_scope import StatisticsRequest

    merges = graph_scope.whole_model_tasks(tasks)
    if not merges:
        statistics_file.require_no_use(
            merge.parameters["statistics"] for merge in graph_scope.pcb_tasks(tasks)
        )
        return tasks
    parameters = [graph_scope.parameters_of(merge) for merge in merges]
    question = StatisticsRequest.of(parameters)
    domain = graph_scope.GraphDomain.of(merges, question.models, options)
    if not domain.size:
        return tasks
    given = parameters[0]["statistics"]
    answer = statistics_file.answer(question, domain, given)
    return graph_scope.with_answer(tasks, answer)
