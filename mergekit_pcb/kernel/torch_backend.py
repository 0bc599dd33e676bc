"""Sweeps by torch's operations, one after the other; on any device."""

from __future__ import annotations

import torch

from mergekit_pcb.kernel.collectors import (
    DeviceCollector,
    NumpyCollector,
    Survey,
    require_finite,
)
from mergekit_pcb.kernel.formula import (
    add_to_base,
    balance,
    compete,
    merge_task_vectors,
)
from mergekit_pcb.kernel.sweeps import Measure, Merge, Setting
from mergekit_pcb.kernel.task_vectors import Share, TaskVectors

# Task values in a block: measured. Smaller ones fit in a core's second-level cache, but
# spend more on calls, which are made by one thread at a time.
_CPU_BLOCK = 1 << 19
_GPU_BLOCK = 1 << 24


def block_size(device: torch.device) -> int:
    """Task values to work on at a time."""
    return _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK


def merge_whole(tensor: TaskVectors, setting: Setting) -> torch.Tensor:
    """Merge a tensor that is one block and its own domain."""
    out = tensor.output()
    tau = tensor.between(slice(0, tensor.size))
    require_finite(tau.abs().amax(dim=1).tolist())
    merged = merge_task_vectors(
        tau,
        density=setting.density,
        weight=setting.weight,
        inter=setting.inter,
        clamp=setting.clamp,
    )
    add_to_base(merged, setting.scale, tensor.base, out, torch.empty_like(merged))
    return out


def survey(
    tensor: TaskVectors, measure: Measure, asked: Survey, share: Share
) -> Survey:
    """What there is to see of a measure in a share of a tensor."""
    kind = NumpyCollector if tensor.device.type == "cpu" else DeviceCollector
    observer = kind(asked, tensor.size)
    for block in share.blocks(tensor):
        observer.observe(measure(block.tau, block.room))
    return observer.report()


def merge(tensor: TaskVectors, task: Merge, share: Share) -> None:
    """Merge a share of a tensor."""
    for span, tau, room in share.blocks(tensor):
        magnitude, b = balance(tau, task.extents, task.inter, room)
        merged = compete(tau, magnitude, b, task.cut, room)
        base = None if tensor.base is None else tensor.base[span]
        add_to_base(merged, task.scale, base, task.out[span], room.sums[1])
