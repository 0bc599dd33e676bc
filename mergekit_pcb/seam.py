"""The one place that reaches into mergekit's planning, for `scope: model`.

Between planning and execution mergekit calls nobody, and a merge method sees one tensor
at a time. So the three functions that return a finished plan are wrapped:
`MergePlanner.plan_to_disk` (mergekit-yaml, mergekit-multi, mergekit-evolve),
`MergePlanner.plan_in_memory` (mergekit-evolve) and `plan_flat_merge`
(mergekit-pytorch). A plan without `scope: model` passes untouched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_WRAPPED = "_mergekit_pcb_wraps"


def wrap_planner(plan: ModuleType) -> None:
    """Wrap what `mergekit.plan` plans with; again does nothing.

    Raises:
        AttributeError, TypeError: mergekit has changed there.
    """
    planner = plan.MergePlanner
    if "options" not in inspect.signature(planner).parameters:
        raise TypeError("MergePlanner takes no options")
    _wrap(planner, "plan_to_disk", lambda bound: bound["self"].options)
    _wrap(
        planner, "plan_in_memory", lambda bound: _on_one_device(bound["self"].options)
    )


def wrap_raw_planner(merge_raw_pytorch: ModuleType) -> None:
    """Wrap what `mergekit-pytorch` plans with; again does nothing.

    Raises:
        AttributeError, TypeError: mergekit has changed there.
    """
    name = "plan_flat_merge"
    if "options" not in inspect.signature(merge_raw_pytorch.plan_flat_merge).parameters:
        raise TypeError(f"{name} takes no options")
    _wrap(merge_raw_pytorch, name, lambda bound: _on_one_device(bound["options"]))


def _on_one_device(options: Any) -> Any:
    # These plans are executed on `device` even with --multi-gpu.
    return options.model_copy(update={"multi_gpu": False})


def _wrap(owner: Any, name: str, options_of: Callable[[dict[str, Any]], Any]) -> None:
    original = getattr(owner, name)
    if hasattr(original, _WRAPPED):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def planned(*args: Any, **kwargs: Any) -> Any:
        tasks = original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs).arguments
        return _with_statistics(tasks, options_of(bound))

    setattr(planned, _WRAPPED, True)
    setattr(owner, name, planned)


def _with_statistics(tasks: Sequence[Any], options: Any) -> Sequence[Any]:
    # These import mergekit's planner, whose import this module is called from.
    from mergekit_pcb import graph_scope, statistics_store
    from mergekit_pcb.model_scope import Question

    merges = graph_scope.whole_model_tasks(tasks)
    if not merges:
        statistics_store.require_no_use(
            merge.parameters["statistics"] for merge in graph_scope.pcb_tasks(tasks)
        )
        return tasks
    parameters = [graph_scope.parameters_of(merge) for merge in merges]
    question = Question.of(parameters)
    domain = graph_scope.GraphDomain.of(merges, question.models, options)
    if not domain.size:
        return tasks
    given = parameters[0]["statistics"]
    answer = statistics_store.answer(question, domain, given)
    return graph_scope.with_answer(tasks, answer)
