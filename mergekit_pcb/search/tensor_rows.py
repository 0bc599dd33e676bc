"""What models add to one tensor of a merge, block by block, under one setting."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from mergekit.merge_methods import TensorGroup

from mergekit_pcb.kernel.domain import ModelStatistics
from mergekit_pcb.kernel.errors import NotFiniteError
from mergekit_pcb.kernel.kept_rows import BLOCK, pack, rows_of_models, unit_of
from mergekit_pcb.kernel.merge import merge_tensor
from mergekit_pcb.kernel.task_vectors import TaskVectors, in_parallel
from mergekit_pcb.plugin.parameters import DEFAULT_WEIGHT
from mergekit_pcb.plugin.tensor_groups import name_of, task_vectors
from mergekit_pcb.search.mapped import GrowingFile
from mergekit_pcb.search.sources import Sources, is_pcb
from mergekit_pcb.search.space import Setting

# Of `KeptRows`, that are worked on at a time: they stay in the processor's cache.
_BLOCKS = 4


class _Part(NamedTuple):
    """What was found of a slice of a tensor."""

    start: int
    starts: list[int]
    counts: list[int]
    products: Any
    squares: Any


@dataclass
class FoundRows:
    """What was found of one tensor.

    Attributes:
        weights: the recipe's, of each model.
        scale: lambda as the recipe says.
        unit: see `kept_rows.Arithmetic`.
        starts, counts: of the blocks, see `kept_rows.KeptRows`.
        products, squares: of each model, the product of its task vector with the
            merged one (of models with a row each, with the first row), and its square.
    """

    weights: list[float]
    scale: float = 1.0
    unit: float = 1.0
    starts: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.products, self.squares = np.zeros((2, len(self.weights)))


class TensorRows:
    """Work on one tensor after the other, see `run_work`.

    Attributes:
        numbers: where the rows are written.
    """

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

    def __call__(self, group: TensorGroup) -> FoundRows:
        """Write the rows of a tensor.

        Raises:
            NotFiniteError: an input holds NaN or infinity.
        """
        bound = self._parameters[name_of(group)]
        found = FoundRows(weights=_weights(bound, self._models))
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
