"""What each model adds to a merge, computed once and kept in mapped files.

A merge by pcb or task_arithmetic is base + lambda * sum_i w_i c_i. The contributions
c_i depend neither on the weights nor on lambda, so every such candidate is a scaled
addition.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mergekit.common import dtype_from_name
from mergekit.merge_methods import TensorGroup
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.merge import merge_tensor
from mergekit_pcb.kernel.projection import auto_lambda
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.plugin.graph_scope import parameters_of, run_work
from mergekit_pcb.plugin.parameters import AUTO, DEFAULT_WEIGHT
from mergekit_pcb.plugin.setting_statistics import (
    AllParameters,
    tensor_statistics,
    whole_model_statistics,
)
from mergekit_pcb.plugin.tensor_groups import name_of, task_vectors
from mergekit_pcb.search.mapped import MappedVectors
from mergekit_pcb.search.space import RECIPE, TASK_ARITHMETIC, Setting

# Task values of a block, of all models: 128 MB.
_BLOCK = 1 << 25


@dataclass(frozen=True)
class Contributions:
    """Contributions under one setting.

    Attributes:
        vectors: for each tensor one row, the sum of w_i c_i with the recipe's
            weights, or a row w_i c_i for each model.
        own_scale: lambda of each tensor as the recipe says, `auto` in numbers.
        automatic: the lambda that `auto` would choose for the whole model.
    """

    vectors: MappedVectors
    own_scale: Mapping[str, float]
    automatic: float

    def merged(self, name: str, factors: Sequence[float] = ()) -> torch.Tensor:
        """The (d,) merged task vector of a tensor at lambda 1.

        Args:
            name: of the tensor.
            factors: on the weight of each model, if there is a row for each.
        """
        rows = self.vectors[name]
        if not factors:
            return rows[0] if len(rows) == 1 else rows.sum(dim=0)
        total = rows[0] * factors[0]
        for row, factor in zip(rows[1:], factors[1:], strict=True):
            total.add_(row, alpha=factor)
        return total


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
class Sources:
    """The planned recipe, whose models are read for each setting anew.

    Attributes:
        merges: the merge task of each tensor.
        models: the models beside the base, in order.
        options: how to read and compute.
        out_dtype: of the recipe, if it names one.
        sizes: by name the coordinates of the tensors that are merged; known once
            the `base` has been read.
        dtypes: of the merge of each of them, and of what it writes.
    """

    merges: Sequence[ExecuteMergeMethodTask]
    models: Sequence[Hashable]
    options: MergeOptions
    out_dtype: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, tuple[torch.dtype, torch.dtype]] = field(default_factory=dict)

    def written(self, value: torch.Tensor, name: str) -> torch.Tensor:
        """The numbers that a merge writes for these float32 ones."""
        of_merge, of_file = self.dtypes[name]
        return value.to(of_merge).to(of_file)

    def base(self, file: Path) -> MappedVectors:
        """Read the base's tensors in the dtype of the merge, as float32.

        Args:
            file: is made; for the numbers.

        Raises:
            PCBError: the recipe merges nothing.
        """
        weights = {m.output_weight.name: m.output_weight for m in self.merges}

        def flat(group: TensorGroup) -> torch.Tensor:
            assert group.base is not None, "the task has seen to it"
            return group.base.tensor.detach().reshape(-1)

        with file.open("wb") as numbers:
            for name, tensor in run_work(
                self.merges, flat, self.options, "reading the base"
            ):
                named = weights[name].force_dtype or self.out_dtype
                self.sizes[name] = len(tensor)
                self.dtypes[name] = (
                    tensor.dtype,
                    dtype_from_name(named) or tensor.dtype,
                )
                numbers.write(tensor.cpu().float().numpy().data)
        if not self.sizes:
            raise PCBError("the recipe merges no tensor that its base model has")
        return MappedVectors(file, self.sizes)

    def contributions(
        self, setting: Setting, file: Path, *, by_model: bool = False
    ) -> Contributions:
        """Compute the contributions under a setting.

        Args:
            setting: of pcb, of task_arithmetic, or the recipe's own.
            file: is made; for the numbers.
            by_model: keep those of each model, and not only their sum.

        Raises:
            PCBError: an input holds NaN or infinity.
        """
        rows = len(self.models) if by_model else 1
        vectors = MappedVectors(file, self.sizes, rows)
        parameters = self._parameters(setting)
        is_pcb = setting.method != TASK_ARITHMETIC
        whole = None
        if is_pcb:
            (whole,) = whole_model_statistics(self.merges, [parameters], self.options)
        index_of = {m.output_weight.name: i for i, m in enumerate(self.merges)}
        count = len(self.models)
        totals = _Totals(np.zeros(count), np.zeros(count))
        own_scale: dict[str, float] = {}

        def work(group: TensorGroup) -> tuple[float, Any, Any]:
            name = name_of(group)
            bound = parameters[index_of[name]]
            present = [entry.id for entry in group.non_base]
            scale, statistics = 1.0, None
            competing: Sequence[Hashable] = present
            if is_pcb:
                if bound["scope"] == "tensor":
                    (of_domain,) = tensor_statistics(group, present, [bound])
                else:
                    assert whole is not None, "asked for this very tensor"
                    of_domain = whole
                scale = of_domain.scale(bound)
                statistics = dict(of_domain.of_tensor(bound))
                competing = list(statistics)
            weights = [
                bound["weight"].get(model, DEFAULT_WEIGHT) for model in competing
            ]
            places = [self.models.index(model) for model in competing]
            products, squares = np.zeros(count), np.zeros(count)
            tensor = task_vectors(group, competing)
            out = vectors[name]
            out.zero_()
            for span, tau in _blocks(tensor):
                if statistics is None:
                    parts = _weighted(tau, weights, by_model=by_model)
                else:
                    parts = _competed(
                        tau,
                        list(statistics.values()),
                        weights,
                        bound["inter"],
                        by_model=by_model,
                    )
                if by_model:
                    out[places, span] = parts.to(out.dtype)
                else:
                    out[0, span] = parts[0].to(out.dtype)
                merged = parts.sum(dim=0)
                products[places] += [_dot(merged, row) for row in tau]
                squares[places] += [_dot(row, row) for row in tau]
            return scale, products, squares

        label = f"contributions of {setting}"
        for name, found in run_work(self.merges, work, self.options, label):
            own_scale[name], products, squares = found
            totals.products += products
            totals.squares += squares
        return Contributions(vectors, own_scale, totals.automatic())

    def _parameters(self, setting: Setting) -> AllParameters:
        parameters = [parameters_of(merge) for merge in self.merges]
        for each in parameters:
            if setting.method != RECIPE:
                each["lambda"] = AUTO
            if setting.scope is not None:
                each["scope"] = setting.scope
            if setting.density is not None:
                each["density"] = dict.fromkeys(each["density"], setting.density)
        return parameters


def _blocks(tensor: TaskVectors) -> Any:
    """Slices of a tensor with its (n, m) task vectors there."""
    step = max(_BLOCK // len(tensor.models), 1)
    starts = range(0, tensor.size, step)
    return tensor.blocks(slice(i, min(i + step, tensor.size)) for i in starts)


def _competed(
    tau: torch.Tensor,
    statistics: Sequence[Any],
    weights: Sequence[float],
    inter: str,
    *,
    by_model: bool,
) -> torch.Tensor:
    """The (1 or n, m) contributions by pcb, by the kernel's own merge."""
    block = TaskVectors(None, list(tau))
    if not by_model:
        return merge_tensor(block, statistics, weights, inter=inter)[None]
    rows = []
    for i, weight in enumerate(weights):
        # The shares do not depend on the weights: one at a time gives each model's.
        alone = [0.0] * len(weights)
        alone[i] = weight
        rows.append(merge_tensor(block, statistics, alone, inter=inter))
    return torch.stack(rows)


def _weighted(
    tau: torch.Tensor, weights: Sequence[float], *, by_model: bool
) -> torch.Tensor:
    """The (1 or n, m) contributions by task_arithmetic: the weighted task vectors."""
    rows = tau * tau.new_tensor(weights)[:, None]
    return rows if by_model else rows.sum(dim=0, keepdim=True)


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() * b.double()).sum())
