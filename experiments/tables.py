"""The comparisons that each table of the evidence is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from experiments.suites.suite import Suite

# Of what is merged: a task, the seed of the fine-tune, and how it was trained.
Model = dict[str, Any]


def _model(suite: Suite, task: str, seed: int, factor: float = 1.0) -> Model:
    training = replace(suite.training, rate=suite.training.rate * factor)
    return {"task": task, "seed": seed, "training": asdict(training)}


def _comparison(
    group: str,
    replicate: str,
    models: Sequence[Model],
    shown: Sequence[str],
    choosing: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A comparison; those of one group are averaged.

    Args:
        group: the block of the table.
        replicate: what tells it from others of its group.
        models: to merge.
        shown: tasks whose test items are shown.
        choosing: tasks whose validation items choose settings, unless the same.
    """
    return {
        "group": group,
        "replicate": replicate,
        "models": list(models),
        "shown": list(shown),
        "choosing": list(choosing or shown),
    }


def cross_task(suite: Suite, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Models of different tasks, from two to all of them, scored on their tasks."""
    for size in range(2, len(suite.tasks) + 1):
        tasks = suite.tasks[:size]
        for seed in seeds:
            models = [_model(suite, task, seed) for task in tasks]
            yield _comparison(f"{size} models", f"seed {seed}", models, tasks)


def cross_training(suite: Suite, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Several runs of one task: of different seeds, or of different learning rates."""
    for task in suite.tasks:
        models = [_model(suite, task, seed) for seed in seeds]
        yield _comparison(f"{len(seeds)} seeds", task, models, [task])
    for task in suite.tasks[:3]:
        models = [_model(suite, task, seeds[0], factor) for factor in (0.5, 1.0, 2.0)]
        yield _comparison("3 learning rates", task, models, [task])


def out_of_domain(suite: Suite, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Models of some tasks, scored on those that none of them was trained on."""
    half = (len(suite.tasks) + 1) // 2
    parts = suite.tasks[:half], suite.tasks[half:]
    for seen, unseen in (parts, parts[::-1]):
        for seed in seeds:
            models = [_model(suite, task, seed) for task in seen]
            yield _comparison(
                f"models of {', '.join(seen)}",
                f"seed {seed}",
                models,
                [*unseen, *suite.held_out],
                seen,
            )


COMPARISONS: Mapping[
    str, Callable[[Suite, Sequence[int]], Iterator[dict[str, Any]]]
] = {
    "cross-task": cross_task,
    "cross-training": cross_training,
    "out-of-domain": out_of_domain,
}
