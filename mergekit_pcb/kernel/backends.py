"""Which backend works on a tensor: torch's operations or compiled loops.

A backend is a module with the functions `block_size`, `collect`, `merge`, `scores`,
`squares` and `project`. Both give the same bits for the same block; compiled loops are
faster. They also have `merge_small`, all steps of a tensor of one block.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

import torch

from mergekit_pcb.kernel import torch_backend
from mergekit_pcb.kernel.task_vectors import TaskVectors

_SWITCH = "MERGEKIT_PCB_NUMBA"


def backend_for(tensor: TaskVectors, inter: str | None) -> ModuleType:
    """The fastest backend for a tensor.

    Args:
        tensor: base and models.
        inter: form of the inter-balancing; None where only magnitudes are looked at.
    """
    if tensor.base is None:
        return torch_backend
    return _backend(tensor.device, tensor.dtype, inter)


def backend_for_sample(tau: torch.Tensor, inter: str | None) -> ModuleType:
    """The fastest backend for (n, m) task vectors; ``inter`` as in `backend_for`."""
    return _backend(tau.device, tau.dtype, inter)


def _backend(device: torch.device, dtype: torch.dtype, inter: str | None) -> ModuleType:
    can_be_compiled = device.type == "cpu" and dtype == torch.float32
    if can_be_compiled and inter in ("raw", None) and not numba_problem():
        return importlib.import_module("mergekit_pcb.kernel.numba_backend")
    return torch_backend


@functools.cache
def numba_problem() -> str:
    """Why there are no compiled loops; empty if there are."""
    if os.environ.get(_SWITCH) == "0":
        return f"switched off by {_SWITCH}=0"
    try:
        importlib.import_module("mergekit_pcb.kernel.numba_backend")
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except ImportError as error:  # not for this numpy, or switched off
        return str(error)
    return ""
