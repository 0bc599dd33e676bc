"""Many cases measured one after the other, or side by side; none of them twice."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from experiments.suites.registry import open_suite
from experiments.suites.suite import Place, State, Suite, fine_tuned
from mergekit_pcb.atomic_files import write_file

# What is to be measured, and what was found; both as JSON has them.
Case = dict[str, Any]
Found = dict[str, Any]
Measure = Callable[[Case, Place], Found]


def measure_all(
    cases: Sequence[Case], measure: Measure, place: Place, jobs: int, file: Path
) -> list[tuple[Case, Found]]:
    """Measure the cases that a file does not have yet, and keep each as it comes.

    Args:
        cases: in the order they are measured and returned in.
        measure: a function of a module, so that other processes find it.
        place: passed on.
        jobs: processes at a time.
        file: JSON; cases it has that are not asked for stay there.
    """
    done = {_key(case) for case, _ in load(file)}
    wanted = [case for case in cases if _key(case) not in done]
    file.parent.mkdir(parents=True, exist_ok=True)
    for case, found in zip(wanted, _found(wanted, measure, place, jobs), strict=True):
        # Other processes may add cases to the same file.
        with FileLock(file.with_name(f".{file.name}.lock")):
            known = [*load(file), (case, found)]
            save(known, file)
        print(f"{file.name}: {len(known)} cases", file=sys.stderr, flush=True)
    by_key = {_key(case): (case, found) for case, found in load(file)}
    return [by_key[_key(case)] for case in cases]


def load(file: Path) -> list[tuple[Case, Found]]:
    """What a file has: nothing if there is none."""
    if not file.exists():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    return [(entry["case"], entry["found"]) for entry in content]


def save(known: Sequence[tuple[Case, Found]], file: Path) -> None:
    """Write one case a line, so that changes can be read."""
    lines = [json.dumps({"case": case, "found": found}) for case, found in known]
    write_file(file, "[\n" + ",\n".join(lines) + "\n]\n")


@cache
def opened(name: str, place: Place) -> Suite:
    """A suite, which keeps models and items in memory from case to case."""
    return open_suite(name, place)


def models_of(case: Case, place: Place) -> tuple[Suite, State, list[State]]:
    """The suite of a case, its base, and the fine-tunes of the case's tasks."""
    suite = opened(case["suite"], place)
    models = [
        suite.state(fine_tuned(suite, place, task, case["seed"]))
        for task in case["tasks"]
    ]
    return suite, suite.state(suite.prepare()), models


def _key(case: Case) -> str:
    return json.dumps(case, sort_keys=True)


def _found(
    cases: Sequence[Case], measure: Measure, place: Place, jobs: int
) -> Iterator[Found]:
    if jobs == 1:
        yield from (measure(case, place) for case in cases)
        return
    # Not forked: a process with CUDA or numba threads must not be.
    with ProcessPoolExecutor(
        jobs,
        get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        yield from pool.map(measure, cases, itertools.repeat(place))
