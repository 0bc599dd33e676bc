"""Who does the work on a tensor: torch, an accelerator, or compiled loops.

All give the same result for the same block; the last two only sooner.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mergekit_pcb.kernel import torch_backend
from mergekit_pcb.kernel.collectors import Survey
from mergekit_pcb.kernel.sweeps import Measure, Merge, Setting
from mergekit_pcb.kernel.task_vectors import Share, TaskVectors


@dataclass(frozen=True)
class Backend:
    """Who works on a tensor.

    Attributes:
        survey: does a share of a survey, and returns what it saw.
        merge: does a share of a merge.
        merge_whole: merges a tensor of one block that is its own domain.
        block: task values to work on at a time.
    """

    survey: Callable[[TaskVectors, Measure, Survey, Share], Survey]
    merge: Callable[[TaskVectors, Merge, Share], None]
    merge_whole: Callable[[TaskVectors, Setting], torch.Tensor]
    block: int


def backend_for(tensor: TaskVectors, inter: str) -> Backend:
    """The fastest that there is for a tensor and a form of the inter-balancing."""
    of_a_kind = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    if of_a_kind and inter == "raw" and fused_is_there():
        from mergekit_pcb.kernel import numba_backend

        return Backend(
            numba_backend.survey,
            numba_backend.merge,
            numba_backend.merge_whole,
            numba_backend.BLOCK,
        )
    block = torch_backend.block_size(tensor.device)
    return Backend(
        torch_backend.survey, torch_backend.merge, torch_backend.merge_whole, block
    )


def numba_status() -> str:
    """Why the compiled loops are not available; empty if they are."""
    if os.environ.get("MERGEKIT_PCB_NUMBA") == "0":
        return "switched off by MERGEKIT_PCB_NUMBA=0"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return "NUMBA_DISABLE_JIT is set"
    try:
        importlib.import_module("mergekit_pcb.kernel.numba_backend")
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except ImportError as error:
        return str(error)
    return ""


@functools.cache
def fused_is_there() -> bool:
    """Whether what compiles the loops is installed and works."""
    return not numba_status()
