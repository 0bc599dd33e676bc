"""The files of an inspection: a page that needs no other file, its data, and pictures.

The data are one JSON document, and CSV with one line a tensor and setting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_pcb import __version__
from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.figures import pictures
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.quantities import (
    BY_MODEL,
    DEFINITIONS,
    setting_values,
    values,
)
from mergekit_pcb.kernel.metrics import Metrics
from mergekit_pcb.output.figures import Picture
from mergekit_pcb.output.html import escaped, figure, page
from mergekit_pcb.output.table import as_csv, html
from mergekit_pcb.plugin.tensor_kinds import layer_labels

FORMAT = 1
"""Raised when a key of the JSON document changes its meaning or goes."""


def write_report(inspection: Inspection, folder: Path) -> None:
    """Write the page, its pictures, JSON and CSV into a new folder."""
    folder.mkdir()
    (folder / "inspect.json").write_text(as_json(inspection), encoding="utf-8")
    (folder / "tensors.csv").write_text(tensors_csv(inspection), encoding="utf-8")
    drawn = pictures(inspection)
    for picture in drawn:
        (folder / f"{picture.name}.png").write_bytes(picture.png())
    index = report_page(inspection, drawn)
    (folder / "index.html").write_text(index, encoding="utf-8")


def report_page(inspection: Inspection, drawn: Sequence[Picture]) -> str:
    """The HTML page, with these pictures in it."""
    return page(f"Inside {inspection.recipe}", _body(inspection, drawn))


def _body(inspection: Inspection, drawn: Sequence[Picture]) -> Iterator[str]:
    yield f"<p>{escaped(tables.summary(inspection))}</p>"
    for warning in tables.warnings(inspection):
        yield f'<p class="alarm">{escaped(warning)}</p>'
    yield html(tables.task_vectors(inspection))
    if len(inspection.models) > 1:
        yield html(tables.cosines(inspection))
    yield from (figure(picture) for picture in drawn if picture.setting is None)
    for k in range(len(inspection.settings)):
        table = tables.competition(inspection, k)
        yield f"<h2>{escaped(table.title)}</h2>"
        yield html(table._replace(title=""))
        if became := tables.automatic(inspection, k):
            yield f"<p>{escaped(became)}</p>"
        yield from (figure(picture) for picture in drawn if picture.setting == k)
        layers = tables.by_layer(inspection, k)
        yield f"<details><summary>{escaped(layers.title)}</summary>"
        yield html(layers._replace(title="")) + "</details>"
    yield "<h2>What the words mean</h2>\n<dl>"
    for word, meaning in DEFINITIONS.items():
        yield f"<dt>{escaped(word)}</dt><dd>{escaped(meaning)}</dd>"
    yield "</dl>\n<footer>"
    yield f"<p>base: {escaped(inspection.base)}</p>"
    for i, model in enumerate(inspection.models):
        yield f"<p>{i + 1}: {escaped(model)}</p>"
    yield f"<p>mergekit-pcb {__version__}</p>\n</footer>"


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
                "lambda": list(setting.scale) if setting.scale else None,
                "lambda_auto": became and became._asdict(),
            }
            for k, (setting, became) in enumerate(
                zip(inspection.settings, inspection.lambdas, strict=True)
            )
        ],
        "skipped": list(inspection.skipped),
        "stops": dict(inspection.stops),
        "dropped": dict(inspection.dropped),
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
