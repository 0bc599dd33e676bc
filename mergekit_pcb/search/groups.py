"""Weights that differ between groups of tensors, in the forms that mergekit reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit.config import ParameterSetting, evaluate_setting
from pydantic import TypeAdapter

from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import DEFAULT_WEIGHT
from mergekit_pcb.plugin.tensor_kinds import kind_of
from mergekit_pcb.recipes import edits

COUNT = 3
"""Of the groups, whichever they are."""

_KINDS = ("attention", "MLP")
_SETTING: TypeAdapter[Any] = TypeAdapter(ParameterSetting)


@dataclass(frozen=True)
class Groups:
    """Groups of tensors in which a model has a weight each.

    Attributes:
        names: of the groups.
        filters: for all groups but the last, what the names of their tensors hold; the
            first that fits decides, as in mergekit. Without any, groups are places in
            the depth of the model, between which weights are interpolated.
    """

    names: tuple[str, ...]
    filters: tuple[str, ...] = ()

    def setting(self, weights: Sequence[float]) -> list[Any]:
        """The value of `weight` in a recipe: a filtered list, or a gradient."""
        if not self.filters:
            return list(weights)
        *some, rest = weights
        filtered = zip(self.filters, some, strict=True)
        return [*({"filter": f, "value": w} for f, w in filtered), {"value": rest}]

    def weight(self, name: str, depth: float, weights: Sequence[float]) -> float:
        """What mergekit makes of the setting.

        Args:
            name: of the tensor.
            depth: its place, 0 to 1, as mergekit counts it.
            weights: of the groups.
        """
        setting = _SETTING.validate_python(self.setting(weights))
        return float(evaluate_setting(name, setting, depth, validate=float))


def groups_for(per_group: str, recipe: edits.Recipe, names: Collection[str]) -> Groups:
    """The groups that the user wants.

    Args:
        per_group: what groups are, ``kind`` or ``depth``.
        recipe: whose weights become those of groups.
        names: of all tensors that are merged.

    Raises:
        PCBError: the recipe's weights have a form already, or names tell no groups.
    """
    weights = edits.values_of(recipe, "weight", DEFAULT_WEIGHT)
    if not all(isinstance(weight, (int, float)) for weight in weights):
        raise PCBError(
            "--per-group needs one number as the `weight` of each model, and the "
            "recipe has a gradient or filters: write numbers, or leave out --per-group"
        )
    if per_group == "kind":
        first, second = _KINDS
        return Groups(
            (first, second, "others"),
            (_filter(names, first, second), _filter(names, second, first)),
        )
    if "slices" in recipe or "modules" in recipe:
        raise PCBError(
            "--per-group depth needs a recipe with `models`: in `slices`, a gradient "
            "begins anew in each slice; give --per-group kind"
        )
    return Groups(("first layer", "middle", "last layer"))


def _filter(names: Collection[str], kind: str, other: str) -> str:
    """A part of all names of a kind that no name of the other kind has."""
    own = [name for name in names if kind_of(name) == kind]
    others = [name for name in names if kind_of(name) == other]

    def rank(part: str) -> tuple[int, bool, int]:
        # Best nothing else, then a whole component, then a long one.
        all_that_fit = sum(part in name for name in names)
        return all_that_fit, f".{part}." not in f".{own[0]}.", -len(part)

    fitting = [
        part
        for part in (sorted(set(_parts(own[0]))) if own else ())
        if all(part in name for name in own)
        and not any(part in name for name in others)
    ]
    if not fitting:
        raise PCBError(
            f"--per-group kind: the tensors of {kind} cannot be told from those of "
            f"{other} by a part of their names; give --per-group depth"
        )
    return min(fitting, key=rank)


def _parts(name: str) -> Iterator[str]:
    """All parts of the components of a name that are two letters or longer."""
    for component in name.split("."):
        for start in range(len(component)):
            for end in range(start + 2, len(component) + 1):
                yield component[start:end]
