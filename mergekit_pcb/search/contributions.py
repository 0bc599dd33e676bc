"""What models add to a merge, computed once and kept in a mapped file.

A merge by pcb or task_arithmetic is base + lambda * sum_i w_i c_i. The contributions
c_i depend neither on the weights nor on lambda, so every such candidate is a scaled
addition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from mergekit_pcb.kernel.kept_rows import Arithmetic, KeptRows
from mergekit_pcb.kernel.projection import auto_lambda
from mergekit_pcb.plugin.run_tasks import run_work
from mergekit_pcb.search.mapped import GrowingFile
from mergekit_pcb.search.sources import Sources, is_pcb
from mergekit_pcb.search.space import Setting
from mergekit_pcb.search.tensor_rows import FoundRows, TensorRows


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

    def automatic(self, weight: float) -> float:
        """The lambda, where models have this weight on average."""
        moved = self.squares > 0
        if not moved.any():
            return 1.0
        models = int(moved.sum())
        if not weight:
            return 1.0
        # The weights are in the products; of whom the parts are does not matter.
        kept = float((self.products[moved] / self.squares[moved]).mean()) / weight
        return auto_lambda([kept / models] * models, [weight] * models)


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
    work = TensorRows(sources, setting, GrowingFile(file), by_model, others)
    found: dict[str, FoundRows] = dict(
        run_work(sources.merges, work, sources.options, f"contributions of {setting}")
    )
    memory = work.numbers.mapped().view(np.float32)
    count = len(sources.models)
    # Those of pcb have one more, by which the sum of the others is divided.
    rows = count + is_pcb(setting) if by_model else 1
    totals = _Totals(np.zeros(count), np.zeros(count))
    weight = fmean(abs(w) for each in found.values() for w in each.weights)
    # The order of results may differ, and with it the last bit of a sum.
    for _, each in sorted(found.items()):
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
        automatic=1.0 if by_model else totals.automatic(weight),
    )
