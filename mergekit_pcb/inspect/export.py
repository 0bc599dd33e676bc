"""An inspection as plain data: one JSON document, and one CSV line a tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mergekit_pcb import __version__
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.quantities import BY_MODEL, setting_values, values
from mergekit_pcb.inspect.tensor_kinds import layer_labels
from mergekit_pcb.kernel.metrics import Metrics
from mergekit_pcb.output.table import as_csv

FORMAT = 1
"""Raised when a key of the JSON document changes its meaning or goes."""


def as_dict(inspection: Inspection) -> dict[str, Any]:
    """The whole inspection, for JSON; lists of models are in their order."""
    layer_of = layer_labels([tensor.name for tensor in inspection.tensors])
    return {
        "format": FORMAT,
        "mergekit_pcb": __version__,
        "recipe": inspection.recipe,
        "merge_method": inspection.method,
        "base_model": inspection.base,
        "models": list(inspection.models),
        "settings": [
            {
                "name": str(setting),
                "origin": inspection.origin(k),
                "scope": list(setting.scopes),
                "density": list(setting.density),
                "lambda": list(setting.scale),
            }
            for k, setting in enumerate(inspection.settings)
        ],
        "skipped": list(inspection.skipped),
        "whole": _all_values(inspection.whole),
        "kinds": {kind: _all_values(m) for kind, m in inspection.kinds().items()},
        "layers": {layer: _all_values(m) for layer, m in inspection.layers().items()},
        "tensors": {
            tensor.name: {
                "kind": tensor.kind,
                "layer": layer_of[tensor.name],
                **_all_values(tensor.metrics),
            }
            for tensor in inspection.tensors
        },
    }


def as_json(inspection: Inspection) -> str:
    """The JSON document."""
    return json.dumps(as_dict(inspection), indent=1, ensure_ascii=False) + "\n"


def tensors_csv(inspection: Inspection) -> str:
    """A table with one line a tensor and setting, and one column a number."""
    layer_of = layer_labels([tensor.name for tensor in inspection.tensors])
    models = inspection.short_models()
    lines = [
        {
            "tensor": tensor.name,
            "kind": tensor.kind,
            "layer": layer_of[tensor.name],
            **_cells(values(tensor.metrics), models),
            "setting": str(setting),
            **_cells(setting_values(tensor.metrics, k), models),
        }
        for tensor in inspection.tensors
        for k, setting in enumerate(inspection.settings)
    ]
    return as_csv(lines)


def _all_values(metrics: Metrics) -> dict[str, Any]:
    settings = range(len(metrics.outcomes))
    return {
        **values(metrics),
        "settings": [setting_values(metrics, k) for k in settings],
    }


def _cells(values: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Cells by column: single numbers first, then those of models and of pairs."""
    single: dict[str, Any] = {}
    several: dict[str, Any] = {}
    for key, value in values.items():
        if key in BY_MODEL:
            columns = (f"{BY_MODEL[key]} {model}" for model in models)
            several |= zip(columns, value or [None] * len(models), strict=True)
        elif key == "cosines":
            for i, second in enumerate(models):
                for j, first in enumerate(models[:i]):
                    several[f"cosine {first}, {second}"] = value[i][j]
        else:
            single[key] = value
    return single | several
