"""Tensors of the models that a merge neither reads nor writes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask

from mergekit_pcb.plugin.input_tensors import loading_tasks


def dropped_tensors(
    merges: Sequence[ExecuteMergeMethodTask], *, some_layers: bool
) -> dict[str, int]:
    """What mergekit leaves out of the output because its architecture has no such name.

    Args:
        merges: all tasks of a plan of `mergekit-yaml`.
        some_layers: the recipe itself chooses layers; those it does not are no finding.

    Returns:
        How many tensors there are of each name, with ``*`` for numbers.
    """
    planned: dict[ModelReference, set[str]] = {}
    converted = set()
    for merge in merges:
        for load in loading_tasks(merge.gather_tensors):
            there = LoaderCache().get(load.model).index.tensor_paths
            names = {load.tensor, *(load.aliases or ()), *(load.tied_names or ())}
            planned.setdefault(load.model, set()).update(names)
            if not load.optional and not names & set(there):
                converted.add(load.model)
    patterns = {_pattern(name) for names in planned.values() for name in names}
    found: set[str] = set()
    # mergekit makes tensors of other names into those that it plans for these models.
    for model in planned.keys() - converted:
        names = set(LoaderCache().get(model).index.tensor_paths) - planned[model]
        if some_layers:
            names = {name for name in names if _pattern(name) not in patterns}
        found |= names
    counts: dict[str, int] = {}
    for name in sorted(found):
        counts[_pattern(name)] = counts.get(_pattern(name), 0) + 1
    return counts


def _pattern(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
