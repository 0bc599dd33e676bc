"""PCB-Merging of tensors too large to work on at once: exact, in bounded memory.

A domain is swept in blocks that fit in the processor's cache: once for the range of
the magnitudes, once for the scores, once to merge. Every sweep computes the scores
anew with the operations of `mergekit_pcb.balancing`, so block size and number of
threads leave no trace in the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from mergekit_pcb.balancing import (
    Cut,
    Extents,
    ModelStatistics,
    merge_task_vectors,
)
from mergekit_pcb.blocks import Block, TaskVectors, in_blocks, one_torch_thread
from mergekit_pcb.ranking import TensorDomain, model_statistics, require_finite


def merge_tensor(
    tensor: TaskVectors,
    statistics: Sequence[ModelStatistics],
    weight: Sequence[float],
    *,
    scale: float = 1.0,
    inter: str = "raw",
) -> torch.Tensor:
    """Merge one tensor of a domain: base + lambda * merged task vector.

    Args:
        tensor: the base and n models on that tensor.
        statistics: of each model on the tensor's domain.
        weight: w_i of each model.
        scale: lambda.
        inter: form of the inter-balancing.

    Returns:
        A new (d,) tensor of the base's dtype (without a base: of the models').
    """
    out = _new_output(tensor)
    like = tensor.memory(0, 0)
    extents = Extents.of([(s.low, s.high) for s in statistics], like)
    arithmetic = tensor.backend.arithmetic
    cut = Cut.of(statistics, weight, like)

    def merge(blocks: Iterable[Block]) -> None:
        for span, tau, room in blocks:
            merged = arithmetic.merge(tau, extents, cut, inter, room)
            _put(out, span, tensor.base, merged, scale, room.sums[1])

    in_blocks(tensor, merge)
    return out


def merge_one_tensor(
    tensor: TaskVectors,
    density: Sequence[float],
    weight: Sequence[float],
    *,
    scale: float = 1.0,
    inter: str = "raw",
    clamp: float = 0.01,
) -> torch.Tensor:
    """Merge a tensor that is its own domain: base + lambda * merged task vector.

    Arguments and result are those of `merge_tensor`, errors those of
    `model_statistics`.
    """
    spans = tensor.spans(tensor.workers)
    if len(spans) > 1:
        domain = TensorDomain([tensor])
        each = model_statistics(
            domain, [[r] for r in density], inter=inter, clamp=clamp
        )
        statistics = [of_model[0] for of_model in each]
        return merge_tensor(tensor, statistics, weight, scale=scale, inter=inter)
    out = _new_output(tensor)
    with one_torch_thread():
        for span in spans:
            tau = tensor.between(span)
            require_finite(tau.abs().amax(dim=1).tolist())
            merged = merge_task_vectors(
                tau, density=density, weight=weight, inter=inter, clamp=clamp
            )
            _put(out, span, tensor.base, merged, scale, torch.empty_like(merged))
    return out


def _new_output(tensor: TaskVectors) -> torch.Tensor:
    return torch.empty_like(tensor.models[0] if tensor.base is None else tensor.base)


def _put(
    out: torch.Tensor,
    span: slice,
    base: torch.Tensor | None,
    merged: torch.Tensor,
    scale: float,
    memory: torch.Tensor,
) -> None:
    merged *= scale
    if base is not None:
        merged += memory.copy_(base[span])
    out[span] = merged
