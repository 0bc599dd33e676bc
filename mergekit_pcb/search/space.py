"""What is searched: settings, candidates, and the recipe that each of them is."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_pcb.plugin.parameters import DEFAULT_WEIGHT, SCOPES
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.models import located
from mergekit_pcb.search.groups import Groups

DENSITIES = (0.1, 0.2, 0.4, 0.7)
LAMBDA_FACTORS = (0.7, 1.0, 1.4)
"""What the lambda that `auto` would choose for the whole model is multiplied by."""

RECIPE = "recipe"
"""The method of a `Setting` that is the recipe as it stands."""

PCB, TASK_ARITHMETIC = "pcb", "task_arithmetic"


@dataclass(frozen=True)
class Setting:
    """What decides the contributions of the models.

    Attributes:
        method: `RECIPE`, or a merge method's name.
        density, scope: of pcb, for all models and tensors.
    """

    method: str
    density: float | None = None
    scope: str | None = None

    def __str__(self) -> str:
        if self.method == RECIPE:
            return "start"
        scope = f":{self.scope}" if self.scope not in (None, SCOPES[0]) else ""
        density = f", density {self.density:g}" if self.density is not None else ""
        return f"{self.method}{scope}{density}"


@dataclass(frozen=True)
class Candidate:
    """One merge: a setting, its lambda, and factors on the weights of the models.

    Attributes:
        setting: what decides the contributions.
        scale: lambda; None is what the recipe says, only of `RECIPE`.
        factors: on the recipe's weight of each model, in order; empty leaves them.
        groups: of tensors; each model then has a factor for each group, side by side.
    """

    setting: Setting
    scale: float | None = None
    factors: tuple[float, ...] = ()
    groups: Groups | None = None

    def __str__(self) -> str:
        words = [str(self.setting)]
        if self.scale is not None:
            words.append(f"lambda {self.scale:g}")
        if self.factors:
            words.append(f"weights {self._factors_in_words()}")
        return ", ".join(words)

    def _factors_in_words(self) -> str:
        if self.groups is None:
            return "/".join(f"{f:.3g}" for f in self.factors)
        count = len(self.groups.names)
        return " ".join(
            f"{name} {'/'.join(f'{f:.3g}' for f in self.factors[i::count])}"
            for i, name in enumerate(self.groups.names)
        )

    def of_model(self, place: int) -> tuple[float, ...]:
        """The factors of a model: one, or one for each group."""
        count = 1 if self.groups is None else len(self.groups.names)
        return self.factors[place * count : (place + 1) * count]


def settings(
    densities: Iterable[float] = DENSITIES, scopes: Iterable[str] = SCOPES
) -> list[Setting]:
    """All settings of the grid; task_arithmetic is always among them."""
    scopes = list(scopes)
    of_pcb = [Setting(PCB, density, scope) for density in densities for scope in scopes]
    return [Setting(TASK_ARITHMETIC), *of_pcb]


def around(setting: Setting, automatic: float) -> list[Candidate]:
    """The candidates of the grid for one setting.

    Args:
        setting: of the grid.
        automatic: the lambda that `auto` would choose for the whole model.
    """
    return [Candidate(setting, rounded(automatic * f)) for f in LAMBDA_FACTORS]


def rounded(value: float) -> float:
    """A lambda or weight as it is written in a recipe.

    Example:
        >>> rounded(1.234567)
        1.235
    """
    return float(f"{value:.4g}")


def recipe_of(start: edits.Recipe, candidate: Candidate) -> edits.Recipe:
    """The recipe that mergekit merges to what the candidate is.

    Args:
        start: a recipe for pcb; not modified.
        candidate: its setting is no real merge by another method.
    """
    recipe = copy.deepcopy(start)
    setting = candidate.setting
    if setting.method == TASK_ARITHMETIC:
        recipe["merge_method"] = TASK_ARITHMETIC
        edits.drop_unknown(recipe, {"weight"})
        edits.set_default(recipe, "weight", DEFAULT_WEIGHT)
    if setting.method != RECIPE:
        # A file of statistics is one of the recipe's own density and scope.
        edits.drop(recipe, "statistics")
    for name in ("density", "scope"):
        if (value := getattr(setting, name)) is not None:
            edits.set_everywhere(recipe, name, value)
    if candidate.scale is not None:
        edits.set_everywhere(recipe, "lambda", candidate.scale)
    if candidate.factors:
        _scale_weights(recipe, candidate)
    return recipe


def _scale_weights(recipe: edits.Recipe, candidate: Candidate) -> None:
    """Multiply the weight of each model, whatever its form, by the model's factor."""
    base = edits.base_of(recipe)
    experts = edits.experts_of(recipe)
    own = iter(edits.values_of(recipe, "weight", DEFAULT_WEIGHT))
    weights = []
    for entry in edits.entries(recipe):
        model = located(entry["model"])
        if model != base:
            factors = candidate.of_model(experts.index(model))
            weights.append((entry, _weight(next(own), factors, candidate.groups)))
    edits.drop(recipe, "weight")
    for entry, weight in weights:
        entry["parameters"] = {**(entry.get("parameters") or {}), "weight": weight}


def _weight(value: Any, factors: Sequence[float], groups: Groups | None) -> Any:
    if groups is None:
        return _times(value, factors[0])
    return groups.setting([times(float(value), factor) for factor in factors])


def _times(value: Any, factor: float) -> Any:
    """A number, gradient or filtered list times a factor."""
    if isinstance(value, list):
        return [_times(item, factor) for item in value]
    if isinstance(value, dict):
        return {**value, "value": _times(value["value"], factor)}
    return times(float(value), factor)


def times(weight: float, factor: float) -> float:
    """A weight times a factor, as it is written in a recipe."""
    return float(f"{weight * factor:.10g}")


def weights_of(
    candidate: Candidate, name: str, depth: float, own: Sequence[float]
) -> list[float]:
    """The weights of the models in a tensor of a candidate.

    Args:
        candidate: has factors.
        name: of the tensor.
        depth: its place, 0 to 1, where groups are places.
        own: the recipe's weight of each model in that tensor.
    """
    weights = []
    for place, weight in enumerate(own):
        scaled = [times(weight, factor) for factor in candidate.of_model(place)]
        groups = candidate.groups
        weights.append(groups.weight(name, depth, scaled) if groups else scaled[0])
    return weights
