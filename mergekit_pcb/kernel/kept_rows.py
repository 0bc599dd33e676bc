"""What a merge adds to its base, kept where it is not zero, and merged again from that.

Where no model competes, a merge keeps the base. So what is left of a tensor is, for
each of its blocks, the coordinates that something is added to and rows of numbers
there: one row, the merged task vector, or one row for each model, whose weights are
then free. A block of which too much is left is kept whole, without coordinates.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from mergekit_pcb.kernel.backends import numba_problem
from mergekit_pcb.kernel.domain import ModelStatistics, Scoring
from mergekit_pcb.kernel.formula import in_unit, shares, sum_models
from mergekit_pcb.kernel.task_vectors import bits_of

BLOCK = 1 << 16
"""Coordinates of a block: as many as uint16 can name."""

# Coordinates for which it is worth to start a thread.
_OF_A_THREAD = 1 << 22
_COMPILED = (torch.float32, torch.bfloat16)
# torch adds up so many models one after the other; of more it makes partial sums.
_ONE_BY_ONE = 17


@dataclass(frozen=True)
class KeptRows:
    """What is left of one tensor.

    Attributes:
        memory: float32 array in which all blocks are. A block is its rows, one after
            the other, and then its coordinates as uint16, unless it is kept whole.
        starts: (blocks,) int64, where in it each block begins.
        counts: (blocks,) int32, how many coordinates are left of each.
        rows: how many rows.
    """

    memory: Any
    starts: Any
    counts: Any
    rows: int


class Arithmetic(NamedTuple):
    """How the values of a merged tensor are computed from rows.

    Attributes:
        weights: w_i of each model, if each has a row; None if the only row is their
            weighted sum.
        is_mean: whether the last row is the divisor, the sum of the shares s_i.
        unit: factor that undoes the unit of the scoring; not used ``in_steps``.
        scale: lambda.
        merged: dtype of the base, and of the arithmetic.
        written: dtype of the output file.
        in_steps: whether the merge rounds to its dtype after every operation, as
            mergekit's methods do. Those of `kernel.merge` round once.
    """

    weights: Sequence[float] | None
    is_mean: bool
    unit: float
    scale: float
    merged: torch.dtype
    written: torch.dtype
    in_steps: bool


def pack(rows: Any, deciding: int) -> tuple[Any, int]:
    """A block to be kept: its numbers in the order of `KeptRows`, and its count.

    Args:
        rows: (r, m) float32 array, m up to `BLOCK`.
        deciding: a coordinate is left if one of so many rows, the first ones, is not
            zero there.
    """
    total, size = rows.shape
    where = np.flatnonzero(rows[:deciding].any(axis=0))
    words = total * len(where) + -(-len(where) // 2)
    if words >= total * size:
        return np.ascontiguousarray(rows).reshape(-1), size
    packed = np.zeros(words, dtype=np.float32)
    packed[: total * len(where)] = rows[:, where].reshape(-1)
    packed[total * len(where) :].view(np.uint16)[: len(where)] = where
    return packed, len(where)


def rows_of_models(
    tau: torch.Tensor, statistics: Sequence[ModelStatistics], inter: str
) -> torch.Tensor:
    """Rows from which `formula.merge_block` merges with any weights, to the bit.

    Args:
        tau: (n, m) task vectors; not modified.
        statistics: of each model on their domain.
        inter: form of the inter-balancing.

    Returns:
        (n + 1, m): what each model adds to the weighted sum, and what that is divided
        by. All are in the unit of the scoring, see `unit_of`.
    """
    scoring = Scoring.of_statistics(statistics, inter)
    tau = in_unit(tau, scoring.unit)
    magnitude, s = shares(tau, statistics, scoring)
    divisor = sum_models(s).clamp_min_(1e-12)
    return torch.cat([tau.sign().mul_(magnitude).mul_(s), divisor[None]])


def unit_of(statistics: Sequence[ModelStatistics], inter: str) -> float:
    """What the mean of `rows_of_models` is multiplied by."""
    return 1 / Scoring.of_statistics(statistics, inter).unit


def write_merge(
    kept: KeptRows, how: Arithmetic, base: torch.Tensor, out: torch.Tensor
) -> None:
    """Write the merge at the coordinates that are left: the bits of a real one.

    Of float32 ``in_steps`` they may be one rounding apart from five models on: there
    torch adds up the last coordinates of a tensor in another order than the others.

    Args:
        kept: what is left of the tensor.
        how: what is done with it.
        base: (d,) in the dtype of the merge, on a CPU.
        out: (d,) float32 on a CPU; has the base's values elsewhere.
    """
    work = _compiled(kept, how, base, out) or _by_torch(kept, how, base, out)
    blocks = len(kept.starts)
    workers = min(torch.get_num_threads(), -(-out.numel() // _OF_A_THREAD))
    if workers < 2:
        work(0, blocks)
        return
    bounds = [blocks * i // workers for i in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))


def _compiled(
    kept: KeptRows, how: Arithmetic, base: torch.Tensor, out: torch.Tensor
) -> Callable[[int, int], Any] | None:
    """Works on some blocks by compiled loops, if they know the dtypes."""
    rounded = {how.merged, how.written}
    if how.in_steps and len(how.weights or ()) > _ONE_BY_ONE:
        return None
    if not rounded <= set(_COMPILED) or base.dtype != how.merged or numba_problem():
        return None
    loops = importlib.import_module("mergekit_pcb.kernel.numba_kept_rows")
    steps = how.in_steps and how.merged == torch.bfloat16
    weights = torch.tensor(how.weights or ())
    if steps:
        weights = weights.bfloat16().float()
    arguments = loops.Arguments(
        kept.memory,
        kept.starts,
        kept.counts,
        kept.rows,
        weights.numpy(),
        how.is_mean,
        np.float32(how.unit),
        np.float32(how.scale),
        steps,
        torch.bfloat16 in rounded,
    )
    flat = bits_of(base) if base.dtype == torch.bfloat16 else base.numpy()
    return lambda start, stop: loops.write(arguments, flat, out.numpy(), start, stop)


def _by_torch(
    kept: KeptRows, how: Arithmetic, base: torch.Tensor, out: torch.Tensor
) -> Callable[[int, int], Any]:
    def work(start: int, stop: int) -> None:
        for b in range(start, stop):
            here = slice(b * BLOCK, min((b + 1) * BLOCK, out.numel()))
            size = here.stop - here.start
            count = int(kept.counts[b])
            first = int(kept.starts[b])
            end = first + kept.rows * count
            rows = torch.from_numpy(kept.memory[first:end]).view(kept.rows, count)
            if count == size:
                out[here] = _merged(rows, how, base[here])
                continue
            places = kept.memory[end : end + -(-count // 2)].view(np.uint16)[:count]
            where = torch.from_numpy(places.astype(np.int64))
            merged = _merged(rows, how, base[here].index_select(0, where))
            out[here].index_copy_(0, where, merged)

    return work


def _merged(rows: torch.Tensor, how: Arithmetic, base: torch.Tensor) -> torch.Tensor:
    """The (m,) float32 weights of the merge, of (r, m) rows and the base there."""
    if how.in_steps:
        # The operations of mergekit's task_arithmetic.
        total = rows.to(how.merged)
        if how.weights is None:
            total = total[0]
        else:
            weights = torch.tensor(how.weights, dtype=how.merged)
            total = (total * weights[:, None]).sum(dim=0)
        total = total * how.scale if how.scale != 1 else total
    else:
        total = _sum(rows, how) * how.unit * how.scale
    return (total + base).to(how.merged).to(how.written).float()


def _sum(rows: torch.Tensor, how: Arithmetic) -> torch.Tensor:
    """The (m,) weighted sum of rows, or mean, in the order of the kernel's merge."""
    if how.weights is None:
        return rows[0]
    total = rows[0] * how.weights[0]
    for row, weight in zip(rows[1:], how.weights[1:], strict=False):
        total += row * weight
    return total / rows[-1] if how.is_mean else total
