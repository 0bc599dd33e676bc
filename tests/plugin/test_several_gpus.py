"""Statistics of whole models on several accelerators, which are imitated here."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mergekit import multigpu_executor
from mergekit.graph import Executor
from mergekit.multigpu_executor import MultiGPUExecutor
from mergekit.scripts import run_yaml
from safetensors.torch import save_file

from mergekit_pcb.plugin import run_tasks, statistics_file
from mergekit_pcb.plugin.plan_tasks import whole_model_tasks
from tests.plugin.test_graph_domain import MODEL, PASSES, SHAPES, plan_of
from tests.tiny import (
    assert_same,
    invoke,
    merge,
    random_weights,
    read,
    recipe_of,
    save_family,
    write_recipe,
)


class WhenHeard(threading.Event):
    """Set once a queue is empty: mergekit's executor ends before it has heard all."""

    def __init__(self, results: queue.Queue[Any]) -> None:
        super().__init__()
        self.results = results

    def set(self) -> None:
        while not self.results.empty():
            time.sleep(0.01)
        super().set()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[MultiGPUExecutor]:
    """Two accelerators that are in truth this processor; gives their executors."""
    made: list[MultiGPUExecutor] = []
    original = MultiGPUExecutor.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.done_event = WhenHeard(self.task_completion_queue)
        made.append(self)

    monkeypatch.setattr(MultiGPUExecutor, "__init__", init)
    for module in (multigpu_executor, run_tasks):
        monkeypatch.setattr(module, "get_torch_accelerator_type", lambda: "cpu")
    monkeypatch.setattr(multigpu_executor, "get_torch_accelerator_count", lambda: 2)
    idle = SimpleNamespace(synchronize=lambda device: None)
    monkeypatch.setattr(
        multigpu_executor, "get_torch_accelerator_module", lambda _: idle
    )
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    return made


@pytest.mark.usefixtures("none_is_small")
def test_tensors_are_independent_islands(
    tmp_path: Path, gpus: list[MultiGPUExecutor]
) -> None:
    """Statistics of different tensors share no task, so all GPUs get their part."""
    base, tuned = save_family(tmp_path)
    recipe = recipe_of(base, tuned, parameters=MODEL)
    one, _ = merge(run_yaml.main, recipe, tmp_path / "one")
    statistics_file._cache.clear()
    several, _ = merge(run_yaml.main, recipe, tmp_path / "several", "--multi-gpu")
    assert_same(read(several), read(one))

    # The last is mergekit's own, for the merge.
    assert len(gpus) == len(PASSES) + 1
    for executor in gpus[:-1]:
        used: Counter[int] = Counter()
        for task in executor.targets:
            assert isinstance(task.task(), run_tasks.StatisticsTask)
            waiting = [task]
            while waiting:
                handle = waiting.pop()
                used[handle._index] += 1
                waiting += handle.arguments().values()
        assert set(used.values()) == {1}
        assert not executor.leading_main_handles
        shares = [len(tasks) for tasks in executor.gpu_assignments.values()]
        assert len(shares) == 2
        assert max(shares) - min(shares) <= 2 + len(tuned) + 1


@pytest.mark.usefixtures("none_is_small")
def test_each_pass_is_named_with_several_gpus(
    tmp_path: Path, gpus: list[MultiGPUExecutor]
) -> None:
    """Mergekit's bar for several GPUs has no label, so a line before it says it."""
    base, tuned = save_family(tmp_path, 2)
    recipe = recipe_of(base, tuned, parameters=MODEL)
    _, quiet = merge(run_yaml.main, recipe, tmp_path / "quiet", "--multi-gpu")
    assert "PCB" not in quiet.output
    statistics_file._cache.clear()
    file = write_recipe(recipe, tmp_path / "r.yml")
    options = ("--no-copy-tokenizer", "--multi-gpu")
    shown = invoke(run_yaml.main, file, tmp_path / "merged", *options)
    told = shown.stderr.splitlines()
    # A bar follows for what mergekit has lost, see below.
    lines = [x for x in told if x.startswith("PCB") and "%|" not in x]
    assert lines == [f"{label}:" for label in PASSES]


@pytest.mark.usefixtures("none_is_small")
def test_results_that_several_gpus_lose(
    tmp_path: Path, gpus: list[MultiGPUExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What mergekit's executor drops at its end is computed again, not left out."""
    base, tuned = save_family(tmp_path)
    recipe = recipe_of(base, tuned, parameters=MODEL)
    one, _ = merge(run_yaml.main, recipe, tmp_path / "one")
    statistics_file._cache.clear()
    original, lost = MultiGPUExecutor.run, []

    def run(self, quiet=False):
        tasks = [target.task() for target in self.targets]
        if not isinstance(tasks[0], run_tasks.StatisticsTask):
            return original(self, quiet)
        # On one device, so that it is certain which results are lost.
        results = list(Executor(tasks).run(quiet=True))
        lost.extend(results[-2:])
        return iter(results[:-2])

    monkeypatch.setattr(MultiGPUExecutor, "run", run)
    several, _ = merge(run_yaml.main, recipe, tmp_path / "several", "--multi-gpu")
    assert len(lost) == 2 * len(PASSES)
    assert_same(read(several), read(one))


@pytest.mark.usefixtures("gpus")
def test_the_executor_for_several_gpus_loses_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why that is needed; if mergekit mends it, our second executor can go."""
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file in files:
        save_file(random_weights(SHAPES), file)
    merges = whole_model_tasks(plan_of(files, tmp_path / "merged"))
    executor = MultiGPUExecutor(
        [merge.gather_tensors for merge in merges], storage_device=torch.device("cpu")
    )
    # A listener that is a moment late, as on a busy machine.
    executor.done_event = threading.Event()
    get, late = executor.task_completion_queue.get, threading.Event()

    def slow_get(timeout):
        late.wait(0.3)
        return get(timeout=timeout)

    monkeypatch.setattr(executor.task_completion_queue, "get", slow_get)
    assert len(list(executor.run(quiet=True))) < len(merges)
