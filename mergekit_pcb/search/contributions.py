"""What models add to a merge, computed once and kept in a mapped file.

A merge by pcb or task_arithmetic is base + lambda * sum_i w_i c_i. The contributions
c_i depend neither on the weights nor on lambda, so every such candidate is a scaled
addition.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mergekit.merge_methods import TensorGroup

from mergekit_pcb.kernel.domain import ModelStatistics
from mergekit_pcb.kernel.kept_rows import (
    BLOCK,
    Arithmetic,
    KeptRows,
    pack,
    rows_of_models,
    unit_of,
)
from mergekit_pcb.kernel.merge import merge_tensor
from mergekit_pcb.kernel.order_statistics import NotFiniteError
from mergekit_pcb.kernel.projection import auto_lambda
from mergekit_pcb.kernel.task_vectors import TaskVectors, in_parallel
from mergekit_pcb.plugin.graph_scope import run_work
from mergekit_pcb.plugin.parameters import DEFAULT_WEIGHT
from mergekit_pcb.plugin.tensor_groups import name_of, task_vectors
from mergekit_pcb.search.mapped import GrowingFile
from mergekit_pcb.search.sources import Sources, is_pcb
from mergekit_pcb.search.space import Setting

# Of `KeptRows`, that are worked on at a time: they stay in the processor's cache.
_BLOCKS = 4


@dataclass(frozen=True)
class Contributions:
    """Contributions under one setting.

    Attributes:
        kept: by name of the tensor: the sum of w_i c_i with the recipe's weights, or a
            row for each model.
        by_model: whether there is a row for each model.
        in_steps: see `Arithmetic`.
        own_scale: lambda of each tensor as the recipe says, `auto` in numbers.
        own_weights: by name, the recipe's weight of each model.
        units: by name, see `Arithmetic`.
        automatic: the lambda that `auto` would choose for the whole model; 1 if there
            is a row for each model.
    """

    kept: Mapping[str, KeptRows]
    by_model: bool
    in_steps: bool
    own_scale: Mapping[str, float]
    own_weights: Mapping[str, Sequence[float]]
    units: Mapping[str, float]
    automatic: float

    def arithmetic(
        self,
        name: str,
        scale: float | None,
        weights: Sequence[float] | None,
        dtypes: tuple[torch.dtype, torch.dtype],
    ) -> Arithmetic:
        """How a tensor of a candidate is made of its contributions.

        Args:
            name: of the tensor.
            scale: lambda; None is the recipe's.
            weights: of each model, where there is a row for each.
            dtypes: of the merge, and of what it writes.
        """
        return Arithmetic(
            weights,
            self.by_model and not self.in_steps,
            self.units[name],
            self.own_scale[name] if scale is None else scale,
            *dtypes,
            self.in_steps,
        )


@dataclass
class _Totals:
    """Sums over all tensors for the projection on each task vector."""

    products: Any
    squares: Any

    def automatic(self) -> float:
        moved = self.squares > 0
        if not moved.any():
            return 1.0
        models = int(moved.sum())
        kept = float((self.products[moved] / self.squares[moved]).mean())
        # The weights are in the products; of whom the parts are does not matter.
        return auto_lambda([kept / models] * models, [1.0] * models)


class _Part(NamedTuple):
    """What was found of a slice of a tensor."""

    start: int
    starts: list[int]
    counts: list[int]
    products: Any
    squares: Any


@dataclass
class _Found:
    """What was found of one tensor."""

    weights: list[float]
    scale: float = 1.0
    unit: float = 1.0
    starts: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.products, self.squares = np.zeros((2, len(self.weights)))


def contributions(
    sources: Sources,
    setting: Setting,
    file: Path,
    *,
    by_model: bool = False,
    others: Sequence[Setting] = (),
) -> Contributions:
    """Compute the contributions under a setting.

    Args:
        sources: of the recipe; its base has been read.
        setting: of pcb, of task_arithmetic, or the recipe's own.
        file: is made; for the numbers.
        by_model: keep those of each model, and not only their sum.
        others: settings that may be asked for later: their statistics are found in
            the same passes over the models.

    Raises:
        PCBError: an input holds NaN or infinity.
    """
    work = _Work(sources, setting, GrowingFile(file), by_model, others)
    found: dict[str, _Found] = dict(
        run_work(sources.merges, work, sources.options, f"contributions of {setting}")
    )
    memory = work.numbers.mapped().view(np.float32)
    count = len(sources.models)
    # Those of pcb have one more, by which the sum of the others is divided.
    rows = count + is_pcb(setting) if by_model else 1
    totals = _Totals(np.zeros(count), np.zeros(count))
    for each in found.values():
        totals.products += each.products
        totals.squares += each.squares
    return Contributions(
        kept={
            name: KeptRows(
                memory,
                np.array(each.starts, dtype=np.int64),
                np.array(each.counts, dtype=np.int32),
                rows,
            )
            for name, each in found.items()
        },
        by_model=by_model,
        in_steps=not is_pcb(setting),
        own_scale={name: each.scale for name, each in found.items()},
        own_weights={name: each.weights for name, each in found.items()},
        units={name: each.unit for name, each in found.items()},
        automatic=1.0 if by_model else totals.automatic(),
    )


class _Work:
    """Work on one tensor after the other, see `run_work`."""

    def __init__(
        self,
        sources: Sources,
        setting: Setting,
        numbers: GrowingFile,
        by_model: bool,
        others: Sequence[Setting],
    ) -> None:
        self._models, self._of = list(sources.models), setting
        self._parameters = {
            merge.output_weight.name: parameters
            for merge, parameters in zip(
                sources.merges, sources.parameters(setting), strict=True
            )
        }
        self._by_model, self.numbers = by_model, numbers
        self._statistics = None
        if is_pcb(setting):
            self._statistics = sources.statistics(setting, others)

    def __call__(self, group: TensorGroup) -> _Found:
        bound = self._parameters[name_of(group)]
        found = _Found(weights=_weights(bound, self._models))
        if self._statistics is None:
            competing: Sequence[Hashable] = [entry.id for entry in group.non_base]
            rows_at = _weighted(group, _weights(bound, competing), self._by_model)
        else:
            of_domain = self._statistics.of(name_of(group), bound["scope"], self._of)
            found.scale = of_domain.scale(bound)
            by_model = dict(of_domain.of_tensor(bound))
            competing, statistics = list(by_model), list(by_model.values())
            if self._by_model:
                found.unit = unit_of(statistics, bound["inter"])
                rows_at = partial(_shared, statistics, bound["inter"])
            else:
                weights = _weights(bound, competing)
                rows_at = partial(_competed, statistics, weights, bound["inter"])
        places = [self._models.index(model) for model in competing]

        def work(spans: Iterator[slice]) -> list[_Part]:
            parts = []
            for span, tau in tensor.blocks(spans):
                # Not finite where a task value is not.
                sizes = torch.linalg.vector_norm(tau, dim=1).double().numpy(force=True)
                if not np.isfinite(sizes).all():
                    raise NotFiniteError
                rows = rows_at(span, tau)
                products = (tau @ rows[0].to(tau.dtype)).double().numpy(force=True)
                if self._by_model:
                    rows = self._all_models(rows, places)
                parts.append(_Part(span.start, *self._keep(rows), products, sizes**2))
            return parts

        tensor = task_vectors(group, competing)
        # Slices of so many whole blocks.
        block = _BLOCKS * BLOCK * len(competing) * max(tensor.workers, 2) // 2
        for part in sorted(itertools.chain(*in_parallel(tensor, block, work))):
            assert part.start % BLOCK == 0, "blocks are where `KeptRows` has them"
            found.starts += part.starts
            found.counts += part.counts
            found.products[places] += part.products
            found.squares[places] += part.squares
        return found

    def _all_models(self, rows: torch.Tensor, places: list[int]) -> torch.Tensor:
        """A row for each model: those that lack the tensor add nothing."""
        if places == list(range(len(self._models))):
            return rows
        count = len(self._models) + len(rows) - len(places)
        result = rows.new_zeros(count, rows.shape[1])
        result[places] = rows[: len(places)]
        result[len(self._models) :] = rows[len(places) :]
        return result

    def _keep(self, rows: torch.Tensor) -> tuple[list[int], list[int]]:
        """Where the blocks of a slice begin, and how many coordinates each has."""
        array = rows.float().numpy(force=True)
        starts, counts = [], []
        for start in range(0, array.shape[1], BLOCK):
            deciding = len(self._models) if self._by_model else 1
            packed, count = pack(array[:, start : start + BLOCK], deciding)
            starts.append(self.numbers.append(packed) // packed.itemsize)
            counts.append(count)
        return starts, counts


_RowsAt = Callable[[slice, torch.Tensor], torch.Tensor]
"""Makes the (r, m) rows of a slice, of its (n, m) task vectors."""


def _weights(bound: Mapping[str, Any], models: Sequence[Hashable]) -> list[float]:
    return [bound["weight"].get(model, DEFAULT_WEIGHT) for model in models]


def _competed(
    statistics: Sequence[ModelStatistics],
    weights: Sequence[float],
    inter: str,
    _: slice,
    tau: torch.Tensor,
) -> torch.Tensor:
    """The (1, m) merged task vector by pcb, by the kernel's own merge."""
    # Compiled loops want a base.
    block = TaskVectors(torch.zeros_like(tau[0]), list(tau))
    return merge_tensor(block, statistics, weights, inter=inter)[None]


def _shared(
    statistics: Sequence[ModelStatistics], inter: str, _: slice, tau: torch.Tensor
) -> torch.Tensor:
    """Rows by pcb from which it merges with any weights."""
    return rows_of_models(tau, statistics, inter)


def _weighted(group: TensorGroup, weights: Sequence[float], by_model: bool) -> _RowsAt:
    """Rows by task_arithmetic, by mergekit's operations in the dtype of the merge."""
    assert group.base is not None, "the task has seen to it"
    base = group.base.tensor.detach().reshape(-1)
    models = [entry.tensor.detach().reshape(-1) for entry in group.non_base]

    def rows_at(span: slice, _: torch.Tensor) -> torch.Tensor:
        deltas = torch.stack([model[span] - base[span] for model in models])
        if by_model:
            return deltas
        factors = torch.tensor(weights, dtype=deltas.dtype, device=deltas.device)
        return deltas.mul_(factors[:, None]).sum(dim=0, keepdim=True)

    return rows_at
