"""PCB-Merging of tensors too large to work on at once: exact, in bounded memory.

A domain is swept in blocks that fit in the processor's cache: once for the range of
the magnitudes, once for the scores, once to merge. Every sweep computes the scores
anew with the operations of `mergekit_pcb.kernel.formula`, so block size and number of
threads leave no trace in the result.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from mergekit_pcb.kernel.backends import backend_for
from mergekit_pcb.kernel.formula import ModelStatistics
from mergekit_pcb.kernel.statistics import TensorDomain, model_statistics
from mergekit_pcb.kernel.sweeps import Merge, Setting
from mergekit_pcb.kernel.task_vectors import TaskVectors, one_torch_thread, share_out


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
    out = tensor.output()
    like = tensor.memory(0, 0)
    task = Merge.of(statistics, weight, inter, scale, out, like)
    backend = backend_for(tensor, inter)
    share_out(tensor, backend.block, functools.partial(backend.merge, tensor, task))
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
    backend = backend_for(tensor, inter)
    if len(tensor.spans(backend.block)) == 1:
        with one_torch_thread():
            setting = Setting(density, weight, scale, inter, clamp)
            return backend.merge_whole(tensor, setting)
    domain = TensorDomain([tensor])
    each = model_statistics(domain, [[r] for r in density], inter=inter, clamp=clamp)
    statistics = [of_model[0] for of_model in each]
    return merge_tensor(tensor, statistics, weight, scale=scale, inter=inter)
