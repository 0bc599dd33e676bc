"""Scores by lm-evaluation-harness, with its own names of tasks and options."""

from __future__ import annotations

import gc
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
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


@dataclass
class Harness:
    """Scores by tasks of lm-evaluation-harness.

    Where settings are chosen, that is done on other tasks, or else on every other item
    of the same tasks: items 0, 2, 4, … choose and items 1, 3, 5, … are shown.

    Attributes:
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

    splits = True
    can_rank = True
    leaves_weights = True

    tasks: Sequence[str]
    validation_tasks: Sequence[str] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    include_path: Path | None = None
    limit: float | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Callable[[], Path] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the tasks; no data is read yet."""
        try:
            import lm_eval
        except ImportError as error:
            raise PCBError(
                "--tasks needs lm-evaluation-harness: pip install 'mergekit-pcb[eval]'"
            ) from error
        self._version = lm_eval.__version__
        names = {*self.tasks, *self.validation_tasks}
        self._manager = _task_manager(names, self.include_path)
        # Which tasks a group has is known once its data are read.
        self._require_metrics_of({*names, *self._manager.all_tasks}, sorted(names))
        self.what = (
            f"Evaluated by lm-evaluation-harness {self._version}{_limited(self.limit)}"
        )
        self.how_chosen = (
            f"those of {', '.join(self.validation_tasks)}; "
            f"shown are those of {', '.join(self.tasks)}"
            if self.validation_tasks
            else "items 0, 2, 4, … of each task chose, items 1, 3, 5, … are shown"
        )

    def identity(self, part: str) -> Any:
        """Tasks, further task files, and everything that is passed on."""
        return {
            "harness": self._version,
            "tasks": self._tasks(part),
            "items": ALL if self.validation_tasks else part,
            "metrics": self.metrics,
            "files": fingerprint(self.include_path) if self.include_path else None,
            "limit": self.limit,
            "model_args": self.model_args,
            "options": self.options,
        }

    def __call__(self, model: Path, part: str, progress: Progress) -> Scores:
        """Evaluate the model in a folder on the part of the items."""
        import torch

        arguments: dict[str, Any] = {"pretrained": str(model), **self.model_args}
        if self.tokenizer and not (model / "tokenizer_config.json").exists():
            arguments.setdefault("tokenizer", str(self.tokenizer()))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return self._scores(
            part,
            model="hf",
            model_args=arguments,
            # By default it takes "cuda" on a machine without one, and fails.
            **{**self.options, "device": self.options.get("device") or device},
        )

    def in_memory(self, model: Any, part: str) -> Scores:
        """Evaluate a model of transformers, as if it were written and loaded."""
        from lm_eval.models.huggingface import HFLM, eval_logger

        assert self.tokenizer is not None, "a model in memory comes without one"
        sizes = ("batch_size", "max_batch_size")
        options = {k: v for k, v in self.options.items() if v is not None}
        # It warns of every model in memory that options of loading have no effect.
        level = eval_logger.level
        eval_logger.setLevel(logging.ERROR)
        try:
            arguments = {
                "tokenizer": str(self.tokenizer()),
                **{name: options[name] for name in sizes if name in options},
                **self.model_args,
            }
            wrapped = HFLM(model, **arguments)
        finally:
            eval_logger.setLevel(level)
        return self._scores(part, model=wrapped, **options)

    def _scores(self, part: str, **arguments: Any) -> Scores:
        import torch
        from lm_eval import simple_evaluate

        names = self._tasks(part)
        chosen: dict[str, Any] = {"limit": self.limit}
        if part != ALL and not self.validation_tasks:
            chosen = {"samples": self._half(names, part)}
        # Its bootstrap would fork this process, whose threads the copy does not have.
        os.environ["DISABLE_MULTIPROC"] = "1"
        found = simple_evaluate(
            tasks=list(names),
            task_manager=self._manager,
            bootstrap_iters=_BOOTSTRAP_DRAWS,
            **chosen,
            **arguments,
        )
        gc.collect()
        torch.cuda.empty_cache()
        assert found is not None, "the harness returns nothing in side processes only"
        columns = [column for name in names for column in _columns(found, name)]
        # With other tasks for choosing, a metric may be of those.
        named = {*columns, *self.tasks, *self.validation_tasks}
        self._require_metrics_of(named, columns)
        return {name: _score(found, name, self.metrics.get(name)) for name in columns}

    def _require_metrics_of(self, known: Set[str], meant: Sequence[str]) -> None:
        for name in self.metrics:
            if name not in known:
                hint = did_you_mean(name, meant) or f"tasks: {', '.join(meant)}"
                raise PCBError(f"--metric: `{name}` is not evaluated; {hint}")

    def _tasks(self, part: str) -> Sequence[str]:
        chooses_by_others = part == VALIDATION and self.validation_tasks
        return self.validation_tasks if chooses_by_others else self.tasks

    def _half(self, names: Sequence[str], part: str) -> dict[str, list[int]]:
        halves = {}
        for name, task in self._manager.load(list(names))["tasks"].items():
            count = len(task.eval_docs)
            if self.limit is not None:
                limit = self.limit * count if self.limit < 1 else self.limit
                count = min(count, math.ceil(limit))
            if count < 2 and len(task.eval_docs) > 1:
                raise PCBError(
                    f"--limit leaves {count} item{'s' * (count != 1)} of {name}, and "
                    "settings are chosen by one half of the items: raise it"
                )
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
