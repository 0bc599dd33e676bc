"""What models add to a merge, computed once and kept in a mapped file.

A merge by pcb or task_arithmetic is base + lambda * sum_i w_i c_i. The contributions
c_i depend neither on the weights nor on lambda, so every such candidate is a scaled
addition.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mergekit.merge_methods import TensorGroup

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
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.plugin.graph_scope import run_work
from mergekit_pcb.plugin.parameters import DEFAULT_WEIGHT
from mergekit_pcb.plugin.tensor_groups import name_of, task_vectors
from mergekit_pcb.search.mapped import GrowingFile
from mergekit_pcb.search.sources import Sources, is_pcb
from mergekit_pcb.search.space import Setting

# Task values that are worked on at a time, of all models: memory that is used again and
# stays in the processor's cache.
_TASK_VALUES = 1 << 21


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


@dataclass
class _Found:
    """What was found of one tensor."""

    starts: list[int]
    counts: list[int]
    rows: int
    scale: float
    unit: float
    weights: list[float]
    products: Any
    squares: Any


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
                each.rows,
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
        self._models, self._setting = list(sources.models), setting
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
        name = name_of(group)
        bound = self._parameters[name]
        weight = [bound["weight"].get(m, DEFAULT_WEIGHT) for m in self._models]
        count = len(self._models)
        found = _Found([], [], 0, 1.0, 1.0, weight, np.zeros(count), np.zeros(count))
        if self._statistics is None:
            competing: Sequence[Hashable] = [entry.id for entry in group.non_base]
            blocks = _weighted(group, _of(bound, competing), by_model=self._by_model)
        else:
            of_domain = self._statistics.of(name, bound["scope"], self._setting)
            found.scale = of_domain.scale(bound)
            statistics = dict(of_domain.of_tensor(bound))
            competing = list(statistics)
            tensor = task_vectors(group, competing)
            if self._by_model:
                found.unit = unit_of(list(statistics.values()), bound["inter"])
                blocks = _shared(tensor, list(statistics.values()), bound["inter"])
            else:
                blocks = _competed(
                    tensor,
                    list(statistics.values()),
                    _of(bound, competing),
                    bound["inter"],
                )
        places = [self._models.index(model) for model in competing]
        for tau, rows in blocks:
            if self._by_model:
                rows = self._all_models(rows, places)
            else:
                found.products[places] += (
                    (tau @ rows[0].to(tau.dtype)).double().numpy(force=True)
                )
                squares = torch.linalg.vector_norm(tau, dim=1).double().square()
                found.squares[places] += squares.numpy(force=True)
            found.rows = len(rows)
            self._keep(rows, found)
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

    def _keep(self, rows: torch.Tensor, found: _Found) -> None:
        array = rows.float().numpy(force=True)
        deciding = len(self._models) if self._by_model else 1
        for start in range(0, array.shape[1], BLOCK):
            packed, count = pack(array[:, start : start + BLOCK], deciding)
            found.starts.append(self.numbers.append(packed) // packed.itemsize)
            found.counts.append(count)


_Blocks = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""(n, m) task vectors in float32 of one slice after the other, and (r, m) rows."""


def _of(bound: Mapping[str, Any], models: Sequence[Hashable]) -> list[float]:
    return [bound["weight"].get(model, DEFAULT_WEIGHT) for model in models]


def _spans(size: int, models: int) -> Iterator[slice]:
    step = max(_TASK_VALUES // models // BLOCK, 1) * BLOCK
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _competed(
    tensor: TaskVectors,
    statistics: Sequence[Any],
    weights: Sequence[float],
    inter: str,
) -> _Blocks:
    """The (1, m) merged task vector by pcb, by the kernel's own merge."""
    for _, tau in tensor.blocks(_spans(tensor.size, len(weights))):
        # Compiled loops want a base.
        block = TaskVectors(torch.zeros_like(tau[0]), list(tau))
        yield tau, merge_tensor(block, statistics, weights, inter=inter)[None]


def _shared(tensor: TaskVectors, statistics: Sequence[Any], inter: str) -> _Blocks:
    """Rows by pcb from which it merges with any weights."""
    spans = _spans(tensor.size, len(statistics))
    for _, tau in tensor.blocks(spans):
        yield tau, rows_of_models(tau, statistics, inter)


def _weighted(
    group: TensorGroup, weights: Sequence[float], *, by_model: bool
) -> _Blocks:
    """Rows by task_arithmetic, by mergekit's operations in the dtype of the merge."""
    assert group.base is not None, "the task has seen to it"
    base = group.base.tensor.detach().reshape(-1)
    models = [entry.tensor.detach().reshape(-1) for entry in group.non_base]
    for span in _spans(len(base), len(models)):
        deltas = torch.stack([model[span] - base[span] for model in models])
        if not deltas.isfinite().all():
            raise NotFiniteError
        tau = deltas.float()
        if not by_model:
            factors = torch.tensor(weights, dtype=deltas.dtype, device=deltas.device)
            deltas = deltas.mul_(factors[:, None]).sum(dim=0, keepdim=True)
        yield tau, deltas
