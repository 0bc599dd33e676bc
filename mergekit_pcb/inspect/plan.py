"""A recipe's merge tasks as mergekit plans them, with no merge to be written.

Whatever the recipe's own method, the tasks are planned for `pcb`, whose contract asks
for what there must be: a base model, and models that share its shapes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mergekit.architecture import get_architecture_info
from mergekit.common import ModelReference
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
from mergekit_pcb.inspect.dropped import dropped_tensors
from mergekit_pcb.output.places import require_apart
from mergekit_pcb.plugin.adapters import merge_adapters
from mergekit_pcb.plugin.input_tensors import require_input_tensors
from mergekit_pcb.plugin.plan_tasks import pcb_tasks
from mergekit_pcb.plugin.planner_patch import require_plain_file_names
from mergekit_pcb.recipes.edits import add_base_to_slices, groups
from mergekit_pcb.recipes.findings import require_no_errors
from mergekit_pcb.recipes.models import local_folders, located
from mergekit_pcb.recipes.reading import recipe_text


class Plan(NamedTuple):
    """What a recipe merges.

    Attributes:
        method: the recipe's own merge method.
        merges: one `pcb` task a tensor; those of another method's recipe have pcb's
            default parameters.
        stops: by tensor, what would stop a merge by `pcb`, and not an inspection.
        dropped: how many tensors of the models are left out, by pattern of the name.
    """

    method: str
    merges: Sequence[ExecuteMergeMethodTask]
    stops: Mapping[str, str]
    dropped: Mapping[str, int]


def plan(
    file: str,
    options: MergeOptions,
    base: str | None = None,
    out: Path | None = None,
) -> Plan:
    """Plan a recipe for `mergekit-yaml` or `mergekit-pytorch`.

    Args:
        file: the recipe.
        options: as for a merge.
        base: takes the place of the recipe's base model, or of a missing one.
        out: a folder that must share no files with a model.

    Raises:
        PCBError: the recipe has errors that `mergekit-pcb check` finds, or its models
            cannot be merged.
    """
    text = recipe_text(file)
    kind = _checked(text, file, base)
    data = yaml.safe_load(text)
    method = data["merge_method"]
    if method != "pcb":
        # A density or weight of another method is no advice for this one.
        data = {**_without_parameters(data), "merge_method": "pcb"}
    refer = _file if kind == "pytorch" else located
    _spell_alike(data, base, refer)
    if base is not None:
        _replace_base(data, base)
    elif not any("base_model" in place for place in (data, *_slices(data))):
        raise PCBError(
            f"{file} names no base model; give the model that the others were "
            "made from with --base"
        )
    if out is not None:
        require_apart(
            out, (path for m in _models(data, refer) for path in local_folders(m))
        )
    if kind == "pytorch":
        config = RawPyTorchMergeConfig.model_validate(data)
        merges, dropped = _flat(config, options), {}
    else:
        merges = _layered(MergeConfiguration.model_validate(data), options)
        dropped = dropped_tensors(merges, some_layers=any(True for _ in _slices(data)))
    stops: dict[str, str] = {}
    require_input_tensors(merges, stops)
    return Plan(method, merges, stops, dropped)


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


def _file(path: str) -> ModelReference:
    """A model of mergekit-pytorch, whose files have no adapters and no revisions."""
    return located({"model": {"path": path}})


def _models(
    data: dict[str, Any], refer: Callable[[Any], ModelReference]
) -> Iterator[ModelReference]:
    for place in (data, *_slices(data)):
        if place.get("base_model") is not None:
            yield refer(place["base_model"])
    for entries in groups(data):
        yield from (refer(entry["model"]) for entry in entries)


def _spell_alike(
    data: dict[str, Any], base: str | None, refer: Callable[[Any], ModelReference]
) -> None:
    """Write each model as it is first written: mergekit compares text."""
    first = {refer(base): base} if base is not None else {}
    for entries in groups(data):
        for entry in entries:
            entry["model"] = first.setdefault(refer(entry["model"]), entry["model"])
    for place in (data, *_slices(data)):
        if place.get("base_model") is not None:
            written = place["base_model"]
            place["base_model"] = first.get(refer(written), written)


def _replace_base(data: dict[str, Any], base: str) -> None:
    data["base_model"] = base
    for piece in _slices(data):
        piece.pop("base_model", None)
    add_base_to_slices(data, base)


def _layered(
    config: MergeConfiguration, options: MergeOptions
) -> list[ExecuteMergeMethodTask]:
    models = sorted(config.referenced_models(), key=str)
    merge_adapters(models, options)
    for model in models:
        if not model.config(options.trust_remote_code).architectures:
            raise PCBError(
                f"{model.model.path}/config.json names no `architectures`, by which "
                "mergekit knows the tensors: add the line of the original model's"
            )
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
    require_plain_file_names(config)
    tasks = inspect.unwrap(plan_flat_merge)(
        config, "", tensor_union=True, tensor_intersection=False, options=options
    )
    # mergekit plans them in the order of a set of names.
    return sorted(pcb_tasks(tasks), key=lambda m: _natural(m.output_weight.name))


def _natural(name: str) -> list[tuple[int, str]]:
    pieces = re.findall(r"\d+|\D+", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces]
