"""The result of `inspect`: metrics of every tensor, summed by kind and by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_pcb.kernel.metrics import Metrics, total
from mergekit_pcb.plugin.lambda_record import LambdaSummary
from mergekit_pcb.plugin.parameters import AUTO
from mergekit_pcb.plugin.tensor_kinds import KINDS, layer_labels
from mergekit_pcb.recipes.model_names import short_names


@dataclass(frozen=True)
class Setting:
    """Parameters of the merge: lowest and highest value over tensors and models.

    Attributes:
        scopes: all that there are.
        density: lowest and highest.
        scale: lowest and highest number; None if there is none.
        automatic: whether there is `lambda: auto`.
    """

    scopes: tuple[str, ...]
    density: tuple[float, float]
    scale: tuple[float, float] | None
    automatic: bool

    @classmethod
    def of(cls, parameters: Sequence[Mapping[str, Any]]) -> Setting:
        """The setting that these parameters of all tensors make."""
        density = {r for each in parameters for r in each["density"].values()}
        scale = {each["lambda"] for each in parameters}
        numbers = sorted(scale - {AUTO})
        return cls(
            tuple(sorted({each["scope"] for each in parameters})),
            (min(density), max(density)),
            (numbers[0], numbers[-1]) if numbers else None,
            AUTO in scale,
        )

    def __str__(self) -> str:
        lambdas = f", lambda {_range(self.scale)}" if self.scale else ""
        if self.scale and self.automatic:
            lambdas += f" and {AUTO}"
        scopes = " and ".join(self.scopes)
        return f"density {_range(self.density)}, scope {scopes}{lambdas}"


def _range(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


@dataclass(frozen=True)
class InspectedTensor:
    """One tensor; its metrics hold one competition for each setting."""

    name: str
    kind: str
    metrics: Metrics


@dataclass(frozen=True)
class Inspection:
    """Everything that `inspect` reports.

    Attributes:
        recipe: its file.
        method: the recipe's own merge method.
        base: the base model.
        models: the others, in the order of all metrics.
        settings: those evaluated; the first is the recipe's, or pcb's defaults.
        tensors: those that are merged, in the order of the plan; at least one.
        skipped: tensors that are not merged: without a base, or not floating-point.
        stops: by tensor, what would stop a merge by `pcb`.
        dropped: how many tensors of the models the output does not have, by pattern.
        lambdas: for each setting what `lambda: auto` becomes, if it has that.
    """

    recipe: str
    method: str
    base: str
    models: tuple[str, ...]
    settings: tuple[Setting, ...]
    tensors: tuple[InspectedTensor, ...]
    skipped: tuple[str, ...]
    stops: Mapping[str, str]
    dropped: Mapping[str, int]
    lambdas: tuple[LambdaSummary | None, ...]

    def origin(self, k: int) -> str:
        """Where setting ``k`` comes from: recipe, defaults, or command line."""
        if k:
            return "command line"
        return "recipe" if self.method == "pcb" else "defaults"

    def short_models(self) -> list[str]:
        """What tables and figures call the models."""
        return short_names(self.models)

    @property
    def whole(self) -> Metrics:
        """The metrics of the whole model."""
        return _total(self.tensors)

    def kinds(self) -> dict[str, Metrics]:
        """The metrics of each kind of tensor that there is."""
        groups = {k: [t for t in self.tensors if t.kind == k] for k in KINDS}
        return {kind: _total(tensors) for kind, tensors in groups.items() if tensors}

    def layers(self) -> dict[str, Metrics]:
        """The metrics of each group of `by_layer`."""
        return {label: _total(tensors) for label, tensors in self.by_layer().items()}

    def by_layer(self) -> dict[str, list[InspectedTensor]]:
        """The tensors of each layer in order, stack by stack, and those outside."""
        tensors = {tensor.name: tensor for tensor in self.tensors}
        groups: dict[str, list[InspectedTensor]] = {}
        for name, label in layer_labels(tensors).items():
            groups.setdefault(label, []).append(tensors[name])
        return groups


def _total(tensors: Iterable[InspectedTensor]) -> Metrics:
    return total(tensor.metrics for tensor in tensors)
