"""What was found out about a recipe, rolled up by kind and by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_pcb.inspect.tensor_kinds import KINDS, Layer
from mergekit_pcb.kernel.metrics import Metrics, total

OUTSIDE = "outside"
"""Where embeddings, the head and the last norm are: in no layer."""


@dataclass(frozen=True)
class Described:
    """A setting as it came out: lowest and highest value over tensors and models."""

    scopes: tuple[str, ...]
    density: tuple[float, float]
    scale: tuple[float, float]

    @classmethod
    def of(cls, parameters: Sequence[Mapping[str, Any]]) -> Described:
        """The description of the parameters of all tensors."""
        density = {r for each in parameters for r in each["density"].values()}
        scale = {each["lambda"] for each in parameters}
        return cls(
            tuple(sorted({each["scope"] for each in parameters})),
            (min(density), max(density)),
            (min(scale), max(scale)),
        )

    def __str__(self) -> str:
        lambdas = "" if self.scale == (1, 1) else f", lambda {_range(self.scale)}"
        scopes = " and ".join(self.scopes)
        return f"density {_range(self.density)}, scope {scopes}{lambdas}"


def _range(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


@dataclass(frozen=True)
class Part:
    """One tensor."""

    name: str
    kind: str
    layer: Layer | None
    tally: Metrics


@dataclass(frozen=True)
class Inspection:
    """All that was found.

    Attributes:
        recipe: its file.
        method: the recipe's own merge method.
        base: the base model.
        models: the others, in the order of all figures.
        settings: those looked at; the first is the recipe's, or pcb's defaults.
        parts: the tensors, in the order of the plan; at least one.
        skipped: tensors that are not merged: without a base, or not floating-point.
    """

    recipe: str
    method: str
    base: str
    models: tuple[str, ...]
    settings: tuple[Described, ...]
    parts: tuple[Part, ...]
    skipped: tuple[str, ...]

    @property
    def whole(self) -> Metrics:
        """The whole model."""
        return total(part.tally for part in self.parts)

    def kinds(self) -> dict[str, Metrics]:
        """The kinds of tensors that there are."""
        return {
            kind: total(part.tally for part in self.parts if part.kind == kind)
            for kind in KINDS
            if any(part.kind == kind for part in self.parts)
        }

    def layers(self) -> dict[str, Metrics]:
        """The layers in order, each stack after the other, and what is outside."""
        return {
            label: total(part.tally for part in parts)
            for label, parts in self.by_layer().items()
        }

    def by_layer(self) -> dict[str, list[Part]]:
        """The tensors of each layer, in the order of `layers`."""
        stacks = list(dict.fromkeys(p.layer.stack for p in self.parts if p.layer))
        names = dict(zip(stacks, _stack_names(stacks), strict=True))
        found = sorted(
            {part.layer for part in self.parts if part.layer},
            key=lambda layer: (stacks.index(layer.stack), layer.number),
        )
        labels: dict[Layer | None, str] = {
            layer: f"{names[layer.stack]} {layer.number}".strip() for layer in found
        }
        if any(part.layer is None for part in self.parts):
            labels[None] = OUTSIDE
        groups: dict[str, list[Part]] = {label: [] for label in labels.values()}
        for part in self.parts:
            groups[labels[part.layer]].append(part)
        return groups

    def short_models(self) -> list[str]:
        """The last components of the models' paths, as many as tell them apart."""
        return _tails([name.split("/") for name in self.models], "/")


def _stack_names(stacks: Sequence[str]) -> list[str]:
    """The first components of stacks, as many as tell them apart; of one, none."""
    pieces = [stack.split(".") for stack in stacks]
    if len(pieces) < 2:
        return [""] * len(pieces)
    while len({piece[0] for piece in pieces}) == 1 and all(p[1:] for p in pieces):
        pieces = [piece[1:] for piece in pieces]
    backwards = _tails([piece[::-1] for piece in pieces], ".")
    return [".".join(name.split(".")[::-1]) for name in backwards]


def _tails(pieces: Sequence[Sequence[str]], joint: str) -> list[str]:
    for count in range(1, max(map(len, pieces), default=1)):
        tails = [joint.join(piece[-count:]) for piece in pieces]
        if len(set(tails)) == len(tails):
            return tails
    return [joint.join(piece) for piece in pieces]
