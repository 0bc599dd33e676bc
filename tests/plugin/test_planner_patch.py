"""The wrappers around mergekit's planning, and what happens without them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
import torch
import yaml
from mergekit import plan
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import FinalizeModel, LoaderCache, ReturnTensor, SaveTensor
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.scripts import merge_raw_pytorch, run_yaml

import mergekit_pcb  # noqa: F401  # wraps where the start-up file does not run
from mergekit_pcb.plugin import planner_patch
from tests.tiny import (
    QUIET,
    error_line,
    invoke,
    merge,
    read,
    recipe_of,
    save_family,
    write_recipe,
)

MODEL = {"scope": "model", "lambda": 1.0}
WRAPPED = [
    (plan.MergePlanner, "plan_to_disk", ["self", "out_path"]),
    (plan.MergePlanner, "plan_in_memory", ["self"]),
    (
        merge_raw_pytorch,
        "plan_flat_merge",
        ["config", "out_path", "tensor_union", "tensor_intersection", "options"],
    ),
]


# --- where mergekit must be as it is --------------------------------------------------


@pytest.mark.parametrize(("owner", "name", "parameters"), WRAPPED)
def test_mergekit_plans_where_it_did(
    owner: Any, name: str, parameters: list[str]
) -> None:
    """The functions that plan are there, take what they took, and are wrapped."""
    planned = getattr(owner, name)
    assert list(inspect.signature(planned).parameters) == parameters
    original = inspect.unwrap(planned)
    assert original is not planned, f"{name} is not wrapped"
    assert original.__module__ == getattr(owner, "__module__", owner.__name__)


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        (SaveTensor, {"tensor_task"}),
        (ReturnTensor, {"tensor_task"}),
        (FinalizeModel, {"tensor_save_tasks"}),
        (
            ExecuteMergeMethodTask,
            {
                "method_name",
                "model_order",
                "base_model",
                "output_weight",
                "parameters",
                "input_parameters",
            },
        ),
    ],
)
def test_tasks_have_the_fields_we_read(task: Any, fields: set[str]) -> None:
    """What is read from a plan, and replaced in it, are fields of mergekit's tasks."""
    assert fields <= set(task.model_fields)


def test_planner_has_the_attributes_we_read() -> None:
    """The config and options of a planner are attributes of these classes."""
    assert inspect.signature(plan.MergePlanner).parameters["options"]
    assert plan.MergePlanner.__annotations__["options"] is MergeOptions
    assert plan.MergePlanner.__annotations__["config"] is MergeConfiguration


# --- what the wrapper does ------------------------------------------------------------


class Planner:
    """A planner whose plan is known."""

    plan: Any = (object(), object())

    def __init__(
        self, config: Any, arch_info: Any, options: Any, out_model_config: Any
    ) -> None:
        self.config = config
        self.options = options

    def plan_to_disk(self, out_path: str) -> Any:
        """Plan."""
        return self.plan

    def plan_in_memory(self) -> Any:
        return self.plan


def module_with(**attributes: Any) -> ModuleType:
    module = ModuleType("mergekit.plan")
    vars(module).update(attributes)
    return module


def test_plans_without_whole_model_scope_pass_untouched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan that does not ask for `scope: model` is handed on, the same object."""
    planner_class = type("Planner", (Planner,), dict(vars(Planner)))
    planner_patch.wrap_planner(module_with(MergePlanner=planner_class))
    config = SimpleNamespace(merge_method="ties")
    planner = planner_class(config, None, MergeOptions(), None)
    assert planner.plan_to_disk("out") is Planner.plan
    assert planner.plan_to_disk(out_path="out") is Planner.plan
    assert planner.plan_in_memory() is Planner.plan
    assert planner_class.plan_to_disk.__doc__ == "Plan."


def test_wrapping_again_does_nothing() -> None:
    """The hook may run twice, in a module that was reloaded, say."""
    planner_class = type("Planner", (Planner,), dict(vars(Planner)))
    module = module_with(MergePlanner=planner_class)
    planner_patch.wrap_planner(module)
    once = dict(vars(planner_class))
    planner_patch.wrap_planner(module)
    assert dict(vars(planner_class)) == once
    flat = merge_raw_pytorch.plan_flat_merge
    planner_patch.wrap_raw_planner(merge_raw_pytorch)
    assert merge_raw_pytorch.plan_flat_merge is flat


def test_a_mergekit_that_has_changed_is_told_so() -> None:
    """What is not as it was raises, which the hook turns into one warning."""

    class Moved:
        def __init__(self, options: Any) -> None: ...

    class Renamed(Planner):
        def __init__(self, settings: Any) -> None: ...

    with pytest.raises(AttributeError):
        planner_patch.wrap_planner(module_with())
    with pytest.raises(AttributeError, match="plan_to_disk"):
        planner_patch.wrap_planner(module_with(MergePlanner=Moved))
    with pytest.raises(TypeError, match="options"):
        planner_patch.wrap_planner(module_with(MergePlanner=Renamed))
    with pytest.raises(AttributeError):
        planner_patch.wrap_raw_planner(module_with())
    with pytest.raises(TypeError, match="options"):
        planner_patch.wrap_raw_planner(module_with(plan_flat_merge=lambda config: []))


def planner_of(folder: Path, **parameters: Any) -> plan.MergePlanner:
    base, tuned = save_family(folder / "models", 2)
    file = write_recipe(
        recipe_of(base, tuned, parameters=parameters), folder / "recipe.yml"
    )
    config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
    options = MergeOptions(quiet=True)
    LoaderCache().setup(options)
    architecture = get_architecture_info(config, options)
    out_config = config.base_model.config(trust_remote_code=False)
    return plan.MergePlanner(config, architecture, options, out_config)


def test_merges_in_memory_have_statistics_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is merged in memory, as in mergekit-evolve, is what is written to disk."""
    # In mergekit 0.1.5 that fails for every method, because the task's declared type
    # is narrower than what it gets; without validation it works.
    monkeypatch.setattr(plan, "ReturnTensor", ReturnTensor.model_construct)
    planner = planner_of(tmp_path, **MODEL)
    tasks = planner.plan_in_memory()
    merged = {
        task.weight_info.name: tensor for task, tensor in Executor(tasks).run(True)
    }
    out = tmp_path / "merged"
    result = invoke(run_yaml.main, tmp_path / "recipe.yml", out, *QUIET)
    assert result.exception is None, result.output
    expected = read(out)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_only_merge_tasks_are_replaced(tmp_path: Path) -> None:
    """Statistics come into the merge tasks; all else of the plan is mergekit's."""
    planner = planner_of(tmp_path, **MODEL)
    *saves, finalize = planner.plan_to_disk("out")
    assert list(finalize.tensor_save_tasks) == saves
    for save, (weight, original) in zip(saves, planner._tensors, strict=True):
        assert (save.tensor_name, save.writer_task) == (
            weight.name,
            finalize.writer_task,
        )
        known = dict(save.tensor_task.parameters)
        statistics = known.pop("model_statistics")
        assert [str(model) for model, _ in statistics] == [
            str(tmp_path / "models" / f"tuned{i}") for i in (0, 1)
        ]
        assert len(known.pop("input_digests")) == 2
        assert known == dict(original.parameters)
        same = save.tensor_task.model_copy(update={"parameters": original.parameters})
        assert same == original


# --- without it -----------------------------------------------------------------------


def refusal(
    command: click.Command, recipe: Any, tmp_path: Path, *options: object
) -> str:
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(command, file, tmp_path / "merged", *options)
    left = [path.name for path in (tmp_path / "merged").glob("*")]
    assert left == []
    return error_line(result)


def test_without_the_wrappers_nothing_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where mergekit's planner is not wrapped, one sentence says what to do."""
    for owner, name, _ in WRAPPED:
        monkeypatch.setattr(owner, name, inspect.unwrap(getattr(owner, name)))
    base, tuned = save_family(tmp_path / "models", 2)
    recipe = recipe_of(base, tuned, parameters=MODEL)
    line = refusal(run_yaml.main, recipe, tmp_path, *QUIET)
    assert line.startswith("scope: model needs statistics of the whole model")
    assert "`mergekit-pcb doctor`" in line
    files = [model.path / "model.safetensors" for model in (base, *tuned)]
    raw = recipe_of(files[0], files[1:], parameters=MODEL)
    assert refusal(merge_raw_pytorch.main, raw, tmp_path) == line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "variables"),
    [((), {"MERGEKIT_PCB_AUTOLOAD": "0"}), (("-S",), {})],
    ids=["switched off", "python -S"],
)
def test_mergekit_pcb_merge_needs_no_hook(
    flags: tuple[str, ...], variables: dict[str, str], tmp_path: Path
) -> None:
    """`mergekit-pcb merge` takes statistics where the start-up file does not run."""
    base, tuned = save_family(tmp_path / "models", 2)
    recipe = recipe_of(base, tuned, parameters=MODEL)
    out, _ = merge(run_yaml.main, recipe, tmp_path / "merged")
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    code = "from mergekit_pcb.cli import main; main()"
    # Without site-packages on the path of its own, Python is told where they are.
    path = os.pathsep.join(filter(None, sys.path))
    alone = subprocess.run(
        [sys.executable, *flags, "-c", code, "merge", file, tmp_path / "alone", *QUIET],
        env=os.environ | {"PYTHONPATH": path} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    assert all(map(torch.equal, read(tmp_path / "alone").values(), read(out).values()))


def test_errors_of_the_statistics_are_one_line(tmp_path: Path) -> None:
    """mergekit-yaml, which does not `check`, says in one line what went wrong."""
    base, tuned = save_family(tmp_path / "models", 2)
    inter = [{"filter": "mlp", "value": "raw"}, {"value": "pairwise"}]
    recipe = recipe_of(base, tuned, parameters=MODEL | {"inter": inter})
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    result = invoke(run_yaml.main, file, tmp_path / "merged", *QUIET)
    line = error_line(result)
    assert line.startswith("inter must be the same for all tensors")
    assert len(result.stderr.splitlines()) == 1
