"""PCB-Merging of one tensor, whatever its size: exact, in bounded memory.

A small tensor is worked on at once. A large one is read in blocks that fit in the
processor's cache: once for the magnitudes, once for the scores, once to merge. Each
sweep computes the scores again with the same operations, so the size of the blocks
and the number of threads do not change the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from mergekit_pcb.kernel import torch_backend
from mergekit_pcb.kernel.backends import backend_for
from mergekit_pcb.kernel.domain import ModelStatistics, Options
from mergekit_pcb.kernel.formula import InMemory, model_statistics
from mergekit_pcb.kernel.projection import projections
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.kernel.survivors import KeptSurvivors, kept_survivors
from mergekit_pcb.kernel.task_vectors import TaskVectors, in_parallel, one_torch_thread


def merge_tensor(
    tensor: TaskVectors,
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    *,
    scale: float = 1.0,
    inter: str = "raw",
    kept: KeptSurvivors | None = None,
) -> torch.Tensor:
    """Merge one tensor of a domain: base + lambda * merged task vector.

    Args:
        tensor: the base and n models on that tensor.
        statistics: of each model on the tensor's domain.
        weight: w_i of each model.
        scale: lambda.
        inter: form of the inter-balancing.
        kept: what the sweep over this tensor's scores has kept.

    Returns:
        A new (d,) tensor of the base's dtype (without a base: of the models').

    Raises:
        OverflowedError: it would hold NaN or infinity.
    """
    out = tensor.empty_output()
    backend = backend_for(tensor, inter)
    work = functools.partial(
        backend.merge, tensor, statistics, weight, scale, inter, out, kept=kept
    )
    in_parallel(tensor, backend.block_size(tensor.device), work)
    return out


def merge_one_tensor(
    tensor: TaskVectors,
    density: Sequence[float],
    weight: Sequence[float],
    *,
    scale: float | Callable[[Sequence[float]], float] = 1.0,
    options: Options = Options(),  # noqa: B008 - it is immutable
) -> torch.Tensor:
    """Merge a tensor that is its own domain: base + lambda * merged task vector.

    Args:
        tensor: as for `merge_tensor`, like the result.
        density: r_i in (0, 1], the fraction of coordinates where model i competes.
        weight: w_i of each model.
        scale: lambda, or a function that makes it of what `projections` returns.
        options: how models compete.

    Raises:
        NotFiniteError: an input holds NaN or infinity.
        OverflowedError: the result would.
    """
    backend = backend_for(tensor, options.inter)
    one_block = len(tensor.spans(backend.block_size(tensor.device))) == 1
    if one_block and backend is not torch_backend:
        merged: torch.Tensor = backend.merge_small(
            tensor, density, weight, scale, options
        )
        return merged
    with kept_survivors() as kept, one_torch_thread() if one_block else nullcontext():
        domain = (
            InMemory(tensor.between(slice(0, tensor.size)))
            if one_block
            else TensorDomain([tensor], kept=kept)
        )
        found = model_statistics(domain, [[r] for r in density], options)
        statistics = [of_model[0] for of_model in found]
        if callable(scale):
            with one_torch_thread():
                sample = domain.sample()
                scale = scale(projections(backend, sample, statistics, options.inter))
        return merge_tensor(
            tensor, statistics, weight, scale=scale, inter=options.inter, kept=kept
        )
