"""Sweeps over a tensor by torch's operations, on any device: `formula`, by blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mergekit_pcb.kernel.collectors import DeviceCollector, NumpyCollector, RankSearch
from mergekit_pcb.kernel.domain import ModelStatistics, Scoring
from mergekit_pcb.kernel.formula import (
    contributions,
    in_unit,
    merge_block,
    ranked_values,
)
from mergekit_pcb.kernel.survivors import KeptSurvivors
from mergekit_pcb.kernel.task_vectors import TaskVectors

# Task values in a block: measured. Intermediates are allocated for each block, and what
# every thread's allocator keeps of them adds up: larger blocks took gigabytes.
_CPU_BLOCK = 1 << 17
_GPU_BLOCK = 1 << 24

SUM_TILE, SUM_LANES = 1024, 8
"""Sums in float64 are made of sums of tiles of so many values, and these of lanes."""


def block_size(device: torch.device) -> int:
    """Task values to work on at a time."""
    return _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK


def collect(
    tensor: TaskVectors,
    scoring: Scoring | None,
    search: RankSearch,
    spans: Iterator[slice],
    kept: KeptSurvivors | None = None,
) -> RankSearch:
    """What a search sees of a tensor's magnitudes, or scores, at some slices.

    Args:
        tensor: base and models.
        scoring: None for magnitudes, else for scores.
        search: what is searched; not modified.
        spans: the slices.
        kept: not used: torch keeps nothing for the merge.
    """
    kind = NumpyCollector if tensor.device.type == "cpu" else DeviceCollector
    collector = kind(search, tensor.size)
    for _, tau in tensor.blocks(spans):
        collector.add(ranked_values(tau, scoring))
    return collector.result()


def merge(
    tensor: TaskVectors,
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    scale: float,
    inter: str,
    out: torch.Tensor,
    spans: Iterator[slice],
    kept: KeptSurvivors | None = None,
) -> None:
    """Merge a tensor at some slices into (d,) ``out``.

    Args:
        tensor: base and models.
        statistics: of each model on the tensor's domain.
        weight: w_i of each model.
        scale: lambda.
        inter: form of the inter-balancing.
        out: the merged tensor.
        spans: the slices.
        kept: not used.
    """
    for span, tau in tensor.blocks(spans):
        merged = merge_block(tau, statistics, weight, inter)
        tensor.write_merged(merged, scale, span, out)


def scores(tau: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    """(n, m) scores of (n, m) task vectors."""
    # In pieces that stay in the processor's cache.
    parts = [part.contiguous() for part in torch.split(tau, 1 << 13, dim=1)]
    return torch.cat([ranked_values(part, scoring) for part in parts], dim=1)


def squares(tau: torch.Tensor) -> Any:
    """Sums of the squares of (n, m) task vectors, (n,) float64, a numpy array."""
    wide = tau.cpu().numpy().astype(np.float64)
    return _sums(wide * wide)


def project(
    tau: torch.Tensor, statistics: Sequence[ModelStatistics], inter: str, parts: Any
) -> Any:
    """Sums of contributions times a weighted sum of task vectors.

    Args:
        tau: (n, m) task vectors.
        statistics: of each model on their domain.
        inter: form of the inter-balancing.
        parts: (n,) float64 weights of the task vectors.

    Returns:
        For each model, (n,) float64, the sum of c_i times sum_j parts_j tau_j.
    """
    scoring = Scoring.of_statistics(statistics, inter)
    tau = in_unit(tau.contiguous(), scoring.unit)
    c = contributions(tau, statistics, scoring).cpu().numpy()
    wanted = (tau.cpu().numpy() * (parts / scoring.unit)[:, None]).sum(axis=0)
    return _sums(c * wanted) / scoring.unit


def _sums(values: Any) -> Any:
    """Sums of the rows of an (n, m) array, in the order of `numba_memory`."""
    n, m = values.shape
    padded = np.zeros((n, -(-m // SUM_TILE) * SUM_TILE))
    padded[:, :m] = values
    lanes = padded.reshape(n, -1, SUM_TILE // SUM_LANES, SUM_LANES)
    by_lane = lanes.cumsum(axis=2)[:, :, -1]
    return by_lane.cumsum(axis=2)[:, :, -1].cumsum(axis=1)[:, -1]
