"""Scores by lm-evaluation-harness, with its own names of tasks and options."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_pcb.compare.evaluation import (
    ALL,
    TEST,
    VALIDATION,
    Score,
    Scores,
    per_item,
    standard_error,
)
from mergekit_pcb.compare.result_cache import fingerprint
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.progress import Progress
from mergekit_pcb.suggestions import did_you_mean

# Enough for two digits of a standard error; the harness's own hundred thousand draws
# take minutes for each model.
_BOOTSTRAP_DRAWS = 1000


class Harness:
    """Scores by tasks of lm-evaluation-harness.

    Where settings are chosen, that is done on other tasks, or else on every other item
    of the same tasks: items 0, 2, 4, … choose and items 1, 3, 5, … are shown.
    """

    splits = True
    can_rank = True

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        validation_tasks: Sequence[str] = (),
        metrics: Mapping[str, str] | None = None,
        include_path: Path | None = None,
        limit: float | None = None,
        model_args: Mapping[str, Any] | None = None,
        tokenizer: Callable[[], Path] | None = None,
        **options: Any,
    ) -> None:
        """Find the tasks; no data is read yet.

        Args:
            tasks: names of tasks or groups of tasks.
            validation_tasks: those to choose settings by, if not halves of ``tasks``.
            metrics: by task; default is the first that the task lists.
            include_path: a folder with further task files.
            limit: only so many items of each task, or a fraction of them.
            model_args: for the harness's model, such as ``{"dtype": "bfloat16"}``.
            tokenizer: where to find one for models that come without.
            options: for ``lm_eval.simple_evaluate``, such as ``batch_size``.

        Raises:
            PCBError: the harness is not installed, or does not know a task.
        """
        try:
            import lm_eval
        except ImportError as error:
            raise PCBError(
                "--tasks needs lm-evaluation-harness: pip install 'mergekit-pcb[eval]'"
            ) from error
        self._version = lm_eval.__version__
        self._tasks = {ALL: tuple(tasks), TEST: tuple(tasks), VALIDATION: tuple(tasks)}
        if validation_tasks:
            self._tasks[VALIDATION] = tuple(validation_tasks)
        self._halves = not validation_tasks
        self._metrics = dict(metrics or {})
        self._include_path = include_path
        self._limit = limit
        self._model_args = dict(model_args or {})
        self._tokenizer = tokenizer
        self._options = options
        names = {name for names in self._tasks.values() for name in names}
        self._manager = _task_manager(names, include_path)
        self.what = (
            f"Evaluated by lm-evaluation-harness {self._version}{_limited(limit)}"
        )
        self.how_chosen = (
            "items 0, 2, 4, … of each task chose, items 1, 3, 5, … are shown"
            if self._halves
            else f"those of {', '.join(validation_tasks)}; "
            f"shown are those of {', '.join(tasks)}"
        )

    def identity(self, part: str) -> Any:
        """Tasks, further task files, and everything that is passed on."""
        return {
            "harness": self._version,
            "tasks": self._tasks[part],
            "items": part if self._halves else ALL,
            "metrics": self._metrics,
            "files": fingerprint(self._include_path) if self._include_path else None,
            "limit": self._limit,
            "model_args": self._model_args,
            "options": self._options,
        }

    def __call__(self, model: Path, part: str, progress: Progress) -> Scores:
        """Evaluate the model on the part of the items."""
        import torch
        from lm_eval import simple_evaluate

        names = self._tasks[part]
        arguments: dict[str, Any] = {"pretrained": str(model), **self._model_args}
        if self._tokenizer and not (model / "tokenizer_config.json").exists():
            arguments.setdefault("tokenizer", str(self._tokenizer()))
        chosen: dict[str, Any] = {"limit": self._limit}
        if self._halves and part != ALL:
            chosen = {"samples": self._half(names, part)}
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Its bootstrap would fork this process, whose threads the copy does not have.
        os.environ["DISABLE_MULTIPROC"] = "1"
        found = simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=list(names),
            task_manager=self._manager,
            bootstrap_iters=_BOOTSTRAP_DRAWS,
            **chosen,
            # By default it takes "cuda" on a machine without one, and fails.
            **{**self._options, "device": self._options.get("device") or device},
        )
        gc.collect()
        torch.cuda.empty_cache()
        assert found is not None, "the harness returns nothing in side processes only"
        columns = [column for name in names for column in _columns(found, name)]
        return {name: _score(found, name, self._metrics.get(name)) for name in columns}

    def _half(self, names: Sequence[str], part: str) -> dict[str, list[int]]:
        halves = {}
        for name, task in self._manager.load(list(names))["tasks"].items():
            count = len(task.eval_docs)
            if self._limit is not None:
                limit = self._limit * count if self._limit < 1 else self._limit
                count = min(count, math.ceil(limit))
            if count < 2:
                raise PCBError(
                    f"{name} has {count} items, of which none can be set aside to "
                    "choose settings by: name other tasks (--validation-tasks)"
                )
            halves[name] = list(range(part == TEST, count, 2))
        return halves


def _task_manager(names: set[str], include_path: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        if not include_path.is_dir():
            raise PCBError(f"{include_path} is no folder (--include-path)")
        # Reading the thousands of files of its own tasks takes up to a minute.
        own = TaskManager(include_path=str(include_path), include_defaults=False)
        if names <= set(own.all_subtasks):
            return own
    manager = TaskManager(include_path=str(include_path) if include_path else None)
    for name in sorted(names - set(manager.all_tasks)):
        hint = did_you_mean(name, manager.all_tasks) or "see `lm_eval ls tasks`"
        raise PCBError(f"lm-evaluation-harness has no task `{name}`; {hint}")
    return manager


def _limited(limit: float | None) -> str:
    if limit is None:
        return ""
    count = f"{limit:.0%}" if limit < 1 else f"{limit:g}"
    return f", {count} of the items of each task only"


def _columns(found: Mapping[str, Any], name: str) -> list[str]:
    if name in found["results"]:
        return [name]
    # A tag stands for several tasks and has no result of its own.
    return [
        task
        for task, config in found["configs"].items()
        if name in _listed(config.get("tag"))
    ]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _score(found: Mapping[str, Any], name: str, wanted: str | None) -> Score:
    results = found["results"][name]
    values = {
        key: value
        for key, value in results.items()
        if "," in key and "_stderr," not in key and isinstance(value, (int, float))
    }
    key = _metric_key(values, name, wanted, found["configs"].get(name, {}))
    metric, _, filter_name = key.partition(",")
    value = float(values[key])
    if not math.isfinite(value):
        raise PCBError(f"{name}: {metric} is {value}")
    raw = [
        sample[metric]
        for sample in found["samples"].get(name, ())
        if sample["filter"] == filter_name and metric in sample
    ]
    items = per_item(raw, value)
    error = results.get(f"{metric}_stderr,{filter_name}")
    if not isinstance(error, (int, float)):
        error = standard_error(items) if items else None
    higher = found["higher_is_better"].get(name, {}).get(metric)
    return Score(value, metric, higher is not False, error, items)


def _metric_key(
    values: Mapping[str, float],
    name: str,
    wanted: str | None,
    config: Mapping[str, Any],
) -> str:
    if not values:
        raise PCBError(f"{name} gives no number (a group? name its tasks)")
    listed = [entry.get("metric") for entry in config.get("metric_list") or ()]
    for metric in [wanted] if wanted else listed:
        for key in values:
            if metric in (key, key.partition(",")[0]):
                return key
    if wanted:
        raise PCBError(f"{name} has no metric `{wanted}`; it has {', '.join(values)}")
    return next(iter(values))
