"""A recipe's merge tasks as mergekit plans them, with no merge to be written.

Whatever the recipe's own method, the tasks are planned for `pcb`, whose contract asks
for what there must be: a base model, and models that share its shapes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache

# mergekit's own evolve command takes it from there as well.
from mergekit.merge import _model_out_config
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig, plan_flat_merge

from mergekit_pcb.check.linter import examine
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.graph_scope import pcb_tasks
from mergekit_pcb.recipes.findings import require_no_errors


def plan(
    file: str, options: MergeOptions, base: str | None = None
) -> tuple[str, Sequence[ExecuteMergeMethodTask]]:
    """Plan a recipe for `mergekit-yaml` or `mergekit-pytorch`.

    Args:
        file: the recipe.
        options: as for a merge.
        base: takes the place of the recipe's base model, or of a missing one.

    Returns:
        The recipe's own merge method, and one `pcb` task a tensor; those of another
        method's recipe have pcb's default parameters.

    Raises:
        PCBError: the recipe has errors that `mergekit-pcb check` finds.
    """
    text = Path(file).read_text(encoding="utf-8")
    kind = _checked(text, file, base)
    data = yaml.safe_load(text)
    method = data["merge_method"]
    if method != "pcb":
        # A density or weight of another method is no advice for this one.
        data = {**_without_parameters(data), "merge_method": "pcb"}
    if base is not None:
        _replace_base(data, base)
    elif not any("base_model" in place for place in (data, *_slices(data))):
        raise PCBError(
            f"{file} names no base model; give the model that the others were "
            "made from with --base"
        )
    if kind == "pytorch":
        return method, _flat(RawPyTorchMergeConfig.model_validate(data), options)
    return method, _layered(MergeConfiguration.model_validate(data), options)


def _checked(text: str, file: str, base: str | None) -> str:
    """The kind of the recipe, once `mergekit-pcb check` finds no error in it."""
    findings, documents = examine(text, file)
    if base is not None:
        # With another base the recipe's method need not accept its own inputs.
        findings = [f for f in findings if f.rule != "refused-inputs"]
    require_no_errors(findings, file)
    if len(documents) > 1:
        raise PCBError(f"{file} holds {len(documents)} merges; inspect takes one")
    return documents[0].kind


def _without_parameters(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_parameters(item)
            for key, item in value.items()
            if key != "parameters"
        }
    if isinstance(value, list):
        return [_without_parameters(item) for item in value]
    return value


def _slices(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from data.get("slices") or ()
    for module in (data.get("modules") or {}).values():
        yield from module.get("slices") or ()


def _replace_base(data: dict[str, Any], base: str) -> None:
    data["base_model"] = base
    for piece in _slices(data):
        piece.pop("base_model", None)
        sources = piece["sources"]
        # mergekit adds a base that is not listed to models, but not to slices.
        if all(source["model"] != base for source in sources):
            sources.append({"model": base, "layer_range": sources[0]["layer_range"]})


def _layered(
    config: MergeConfiguration, options: MergeOptions
) -> list[ExecuteMergeMethodTask]:
    architecture = get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    out_config = _model_out_config(config, architecture, options.trust_remote_code)
    planner = MergePlanner(config, architecture, options, out_config)
    # Without the wrapper of `planner_patch`: `collect` asks for the whole-model
    # statistics of all settings. Only inputs matter, so there is no output path.
    return pcb_tasks(inspect.unwrap(MergePlanner.plan_to_disk)(planner, ""))


def _flat(
    config: RawPyTorchMergeConfig, options: MergeOptions
) -> list[ExecuteMergeMethodTask]:
    tasks = inspect.unwrap(plan_flat_merge)(
        config, "", tensor_union=True, tensor_intersection=False, options=options
    )
    # mergekit plans them in the order of a set of names.
    return sorted(pcb_tasks(tasks), key=lambda m: _natural(m.output_weight.name))


def _natural(name: str) -> list[tuple[int, str]]:
    pieces = re.findall(r"\d+|\D+", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces]
