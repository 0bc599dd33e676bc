"""Which merges are compared: for every method the same number of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

#: How often a method may try, whatever it is. The best on validation text counts.
BUDGET = 6


@dataclass(frozen=True)
class Setting:
    """One merge: the method, and what its recipe says beyond the models."""

    family: str
    method: str
    label: str
    parameters: Mapping[str, Any]
    weights: Sequence[float] = field(default=(1.0, 1.0, 1.0))


def settings() -> list[Setting]:
    """Every merge to be made, ``BUDGET`` for each family of settings.

    A lambda means more to a method that sums than to one that averages, so the ranges
    differ. They come from trials on other extracts of the texts, and are meant to have
    each method's best inside.
    """
    return [
        *_linear(),
        *_lambdas("task_arithmetic", (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)),
        *_densities("ties", (0.2, 0.5), (1.0, 1.4, 1.8)),
        *_densities("dare_ties", (0.2, 0.5), (0.4, 0.7, 1.0)),
        *_densities("pcb", (0.1, 0.4), (1.0, 1.4, 1.8), scope="tensor"),
        *_densities("pcb", (0.1, 0.4), (1.0, 1.4, 1.8), scope="model"),
    ]


def _linear() -> list[Setting]:
    """An average has no lambda, so its tries go into the weights of the models."""
    weightings = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
    # Swedish is furthest from what the base model knows: the spare tries go there.
    weightings += [(3, 1, 1), (3, 2, 2)]
    return [
        Setting("linear", "linear", f"weights {a}:{b}:{c}", {}, (a, b, c))
        for a, b, c in weightings
    ]


def _lambdas(method: str, lambdas: Sequence[float]) -> list[Setting]:
    return [Setting(method, method, f"lambda {x}", {"lambda": x}) for x in lambdas]


def _densities(
    method: str, densities: Sequence[float], lambdas: Sequence[float], **more: str
) -> list[Setting]:
    family = ", ".join([method, *(f"scope {value}" for value in more.values())])
    return [
        Setting(
            family,
            method,
            f"density {density}, lambda {x}",
            {"density": density, "lambda": x, **more},
        )
        for density in densities
        for x in lambdas
    ]


def recipe(setting: Setting, base: Path, models: Sequence[Path]) -> str:
    """The setting as a recipe for ``mergekit-yaml``.

    Paths are made absolute: for a relative one with a single slash, mergekit asks the
    hub whether it is a model's name there.
    """
    document = {
        "merge_method": setting.method,
        "models": [
            {"model": str(model.resolve()), "parameters": {"weight": float(weight)}}
            for model, weight in zip(models, setting.weights, strict=True)
        ],
        "parameters": dict(setting.parameters),
        "dtype": "float32",
    }
    if setting.method != "linear":  # there, a base model would be averaged in
        document["base_model"] = str(base.resolve())
    return yaml.safe_dump(document, sort_keys=False)
