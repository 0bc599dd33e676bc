"""An inspection as plain data: one JSON document, and one CSV line a tensor."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from mergekit_pcb import __version__
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.kernel.metrics import Metrics

FORMAT = 1
"""Raised when a key of the JSON document changes its meaning or goes."""


def as_dict(inspection: Inspection) -> dict[str, Any]:
    """Everything that was found, for JSON; lists of models are in their order."""
    layer_of = {
        part.name: layer
        for layer, parts in inspection.by_layer().items()
        for part in parts
    }
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
                "origin": origin(inspection, k),
                "scope": list(setting.scopes),
                "density": list(setting.density),
                "lambda": list(setting.scale),
            }
            for k, setting in enumerate(inspection.settings)
        ],
        "skipped": list(inspection.skipped),
        "whole": _figures(inspection.whole),
        "kinds": {kind: _figures(t) for kind, t in inspection.kinds().items()},
        "layers": {layer: _figures(t) for layer, t in inspection.layers().items()},
        "tensors": {
            part.name: {
                "kind": part.kind,
                "layer": layer_of[part.name],
                **_figures(part.tally),
            }
            for part in inspection.parts
        },
    }


def origin(inspection: Inspection, setting: int) -> str:
    """Where a setting comes from: the recipe, pcb's defaults, or the command line."""
    if setting:
        return "command line"
    return "recipe" if inspection.method == "pcb" else "defaults"


def _figures(tally: Metrics) -> dict[str, Any]:
    return {
        "weights": tally.weights,
        "base_norm": math.sqrt(tally.base_square),
        "norms": tally.norms(),
        "mean_norm": math.sqrt(tally.mean_square),
        "cosines": tally.cosines(),
        "contested": tally.contested / tally.weights,
        "sign_conflicts": tally.conflict_share(),
        "settings": [
            {
                **dict(zip(_SHARES, outcome.shares(), strict=True)),
                "kept": outcome.kept_shares(),
                "wins": outcome.win_shares(),
                "tied": outcome.tied_share(),
                "merged_norm": math.sqrt(outcome.merged_square),
                "merged_over_mean": tally.merged_over_mean(outcome),
            }
            for outcome in tally.outcomes
        ],
    }


_SHARES = ("kept_by_none", "kept_by_one", "kept_by_several")


def as_json(inspection: Inspection) -> str:
    """The JSON document."""
    return json.dumps(as_dict(inspection), indent=1, ensure_ascii=False) + "\n"


def as_csv(inspection: Inspection) -> str:
    """A table with one line a tensor and setting, and one column a figure."""
    document = as_dict(inspection)
    models = inspection.short_models()
    lines = []
    for name, tensor in document["tensors"].items():
        common = {
            "tensor": name,
            "kind": tensor["kind"],
            "layer": tensor["layer"],
            "weights": tensor["weights"],
            "base_norm": tensor["base_norm"],
            "mean_norm": tensor["mean_norm"],
            "contested": tensor["contested"],
            "sign_conflicts": tensor["sign_conflicts"],
            **_by_model("norm", models, tensor["norms"]),
        }
        for i, row in enumerate(tensor["cosines"]):
            for j, cosine in enumerate(row[:i]):
                common[f"cosine {models[j]}, {models[i]}"] = cosine
        for setting, outcome in zip(
            document["settings"], tensor["settings"], strict=True
        ):
            single = {k: v for k, v in outcome.items() if not isinstance(v, list)}
            wins = outcome["wins"] or [None] * len(models)
            single.pop("wins", None)
            lines.append(
                {
                    **common,
                    "setting": setting["name"],
                    **single,
                    **_by_model("kept", models, outcome["kept"]),
                    **_by_model("wins", models, wins),
                }
            )
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return table.getvalue()


def _by_model(figure: str, models: list[str], values: list[Any]) -> dict[str, Any]:
    return {f"{figure} {m}": v for m, v in zip(models, values, strict=True)}
