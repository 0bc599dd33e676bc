"""What does the work on a block: torch, an accelerator, or compiled loops.

All give the same result for the same block; the last two only sooner.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mergekit_pcb import balancing
from mergekit_pcb.balancing import Cut, Extents, Room
from mergekit_pcb.survey import CPUObserver, DeviceObserver, Observer, Survey

# Task values in a block: measured. Smaller ones fit in a core's second-level cache, but
# spend more on calls, which are made by one thread at a time.
_CPU_BLOCK = 1 << 19
_GPU_BLOCK = 1 << 24


class Arithmetic(Protocol):
    """The functions of `mergekit_pcb.balancing` that a sweep needs."""

    def subtract_base(
        self,
        models: Sequence[torch.Tensor],
        base: torch.Tensor | None,
        memory: torch.Tensor,
    ) -> torch.Tensor:
        """Task vectors of a block."""
        ...

    def scores(
        self, tau: torch.Tensor, extents: Extents, inter: str, room: Room
    ) -> torch.Tensor:
        """Scores b of a block."""
        ...

    def merge(
        self, tau: torch.Tensor, extents: Extents, cut: Cut, inter: str, room: Room
    ) -> torch.Tensor:
        """Merged task vector of a block."""
        ...


@dataclass(frozen=True)
class Backend:
    """Who works on a tensor.

    Attributes:
        arithmetic: computes.
        observer: looks at values for a survey; takes the number of them a model, too.
        block: task values that are worked on at a time.
    """

    arithmetic: Arithmetic
    observer: Callable[[Survey, int], Observer]
    block: int


def backend_for(device: torch.device, dtype: torch.dtype) -> Backend:
    """The fastest that there is for task vectors of a dtype on a device."""
    if device.type != "cpu":
        return Backend(balancing, DeviceObserver, _GPU_BLOCK)
    if dtype == torch.float32 and fused_is_there():
        from mergekit_pcb import fused

        return Backend(fused, fused.FusedObserver, _CPU_BLOCK)
    return Backend(balancing, CPUObserver, _CPU_BLOCK)


@functools.cache
def fused_is_there() -> bool:
    """Whether what compiles the loops, the extra ``fast``, is installed and works."""
    try:
        importlib.import_module("mergekit_pcb.fused")
    except ImportError:  # numba is not there, not for this numpy, or switched off
        return False
    return True
