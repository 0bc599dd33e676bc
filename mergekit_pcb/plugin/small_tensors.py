"""Small tensors that the first pass of `scope: model` keeps for the others.

To load one takes far longer than to work on it, and a model may have thousands.
"""

from __future__ import annotations

import threading

import torch

from mergekit_pcb.kernel.task_vectors import TaskVectors, all_finite

# Coordinates of a tensor that is kept at most, and bytes of all in one dtype.
_MOST, _BUDGET = 1 << 16, 1 << 26


class SmallTensors:
    """Copies of base and models, of all tensors one behind the other.

    Attributes:
        names: of the tensors that are kept.
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self.names: set[str] = set()
        # For each dtype (n + 1, ...) memory, of which the system gives what is used.
        self._rows: dict[torch.dtype, torch.Tensor] = {}
        self._used: dict[torch.dtype, int] = {}
        self._lock = threading.Lock()

    def keep(self, name: str, vectors: TaskVectors) -> None:
        """Keep a tensor if it is small, on the CPU and finite, and there is room."""
        inputs, dtype = vectors.inputs, vectors.models[0].dtype
        if vectors.size > _MOST or vectors.device.type != "cpu":
            return
        if not all_finite(vectors.between(slice(0, vectors.size))):
            return  # the other passes will say what is wrong, or make it right
        with self._lock:
            if dtype not in self._rows:
                capacity = _BUDGET // (dtype.itemsize * len(inputs))
                self._rows[dtype] = torch.empty(len(inputs), capacity, dtype=dtype)
            start = self._used.get(dtype, 0)
            end = start + vectors.size
            # An executor of several devices may execute a task twice.
            if name in self.names or end > self._rows[dtype].shape[1]:
                return
            for row, part in zip(self._rows[dtype], inputs, strict=True):
                row[start:end] = part
            self._used[dtype] = end
            self.names.add(name)

    def task_vectors(self) -> list[TaskVectors]:
        """Those of all tensors that are kept, as few long ones."""
        return [
            TaskVectors(base[:used], [model[:used] for model in models])
            for dtype, used in self._used.items()
            for *models, base in [self._rows[dtype]]
        ]
