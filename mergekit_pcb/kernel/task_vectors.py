"""The task vectors of a tensor, computed block by block, on several threads."""

from __future__ import annotations

import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from mergekit_pcb.kernel.errors import OverflowedError

# Python code runs in one thread at a time, which leaves more workers little to do.
_MOST_WORKERS = 4

# Coordinates of a tensor that one thread reads soon enough.
_SMALL = 1 << 18

T = TypeVar("T")


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors of n models on one tensor.

    Attributes:
        base: (d,) flat tensor of the base model, or None if ``models`` hold task
            vectors already.
        models: n flat tensors of the same size and device, any floating-point dtype.
    """

    base: torch.Tensor | None
    models: Sequence[torch.Tensor]

    @classmethod
    def of(
        cls, base: torch.Tensor | None, models: Sequence[torch.Tensor]
    ) -> TaskVectors:
        """Those of tensors of any shape, detached from autograd."""
        flat = [tensor.detach().reshape(-1) for tensor in models]
        return cls(None if base is None else base.detach().reshape(-1), flat)

    @property
    def size(self) -> int:
        """Number d of coordinates."""
        return self.models[0].numel()

    @property
    def device(self) -> torch.device:
        """Where the inputs are and the work is done."""
        return self.models[0].device

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The models, then the base if there is one."""
        return [*self.models] if self.base is None else [*self.models, self.base]

    @cached_property
    def dtype(self) -> torch.dtype:
        """float64 if an input is, else float32: (1e-4)^2 is zero in float16."""
        wide = any(tensor.dtype == torch.float64 for tensor in self.inputs)
        return torch.float64 if wide else torch.float32

    def empty_output(self) -> torch.Tensor:
        """(d,) memory for the merged tensor: of the base's dtype, or the models'."""
        like = self.models[0] if self.base is None else self.base
        if self.device.type != "cpu":
            return torch.empty_like(like)
        # numpy asks for huge pages, which take the system a tenth of the time.
        memory = np.empty(like.numel() * like.itemsize, dtype=np.uint8)
        return torch.from_numpy(memory).view(like.dtype)

    def between(self, span: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        """The (n, m) task vectors at a slice, contiguous.

        Args:
            span: the coordinates.
            out: (n + 1, m) memory of `dtype`, whose first n rows are the result.
        """
        if out is None:
            rows, m = len(self.models) + 1, span.stop - span.start
            out = torch.empty(rows, m, dtype=self.dtype, device=self.device)
        tau = out[:-1]
        for task_vector, model in zip(tau, self.models, strict=True):
            task_vector.copy_(model[span])
        return tau if self.base is None else tau.sub_(out[-1].copy_(self.base[span]))

    def blocks(self, spans: Iterable[slice]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Each slice with its (n, m) task vectors, which the next one overwrites."""
        # Fresh memory for every block would cost more than loading it.
        memory = torch.empty(0, dtype=self.dtype, device=self.device)
        rows = len(self.models) + 1
        for span in spans:
            needed = rows * (span.stop - span.start)
            if len(memory) < needed:
                memory = memory.new_empty(needed)
            yield span, self.between(span, memory[:needed].view(rows, -1))

    def at(self, where: torch.Tensor) -> torch.Tensor:
        """The (n, m) task vectors at (m,) indices."""

        # Unlike indexing, this does not wait for torch's threads.
        def pick(part: torch.Tensor) -> torch.Tensor:
            return part.index_select(0, where)

        workers = self.workers
        with one_torch_thread():
            # Threads wait for each other longer than a small tensor takes.
            if workers == 1 or self.size < _SMALL:
                picked = list(map(pick, self.inputs))
            else:
                # Several threads wait at the same time for what is still on disk.
                picked = list(_pool(workers, os.getpid()).map(pick, self.inputs))
            models, base = picked[: len(self.models)], picked[len(self.models) :]
            vectors = TaskVectors(base[0] if base else None, models)
            return vectors.between(slice(0, len(where)))

    def write_merged(
        self, merged: torch.Tensor, scale: float, span: slice, out: torch.Tensor
    ) -> None:
        """Put base + lambda * merged task vector into ``out`` at a slice.

        Args:
            merged: (m,) merged task vector there; overwritten.
            scale: lambda.
            span: the coordinates.
            out: (d,) tensor of any floating-point dtype.

        Raises:
            OverflowedError: a value is not finite in the dtype of ``out``.
        """
        merged *= scale
        if self.base is not None:
            merged += self.base[span]
        if not all_finite(out[span].copy_(merged)):
            raise OverflowedError

    @property
    def workers(self) -> int:
        """On how many threads to work: as many as torch may use, up to a limit."""
        on_cpu = self.device.type == "cpu"
        return min(torch.get_num_threads(), _MOST_WORKERS) if on_cpu else 1

    def spans(self, block: int) -> list[slice]:
        """Slices that make blocks of at most so many task values."""
        # Many workers get no more memory than two.
        budget = block * 2 // max(self.workers, 2)
        # Whole cache lines, whatever the number of models.
        step = max(budget // len(self.models) // 64 * 64, 64)
        return [
            slice(start, min(start + step, self.size))
            for start in range(0, self.size, step)
        ]


def bits_of(tensor: torch.Tensor) -> Any:
    """(m,) uint16 bits of (m,) bfloat16 numbers, a numpy array in the same memory."""
    return tensor.view(torch.int16).numpy().view(np.uint16)


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinity."""
    # A sum is several times cheaper; it may overflow where no value has.
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    total = values.sum(dtype=wide).item()
    return math.isfinite(total) or bool(values.isfinite().all())


def in_parallel(
    tensor: TaskVectors, block: int, work: Callable[[Iterator[slice]], T]
) -> list[T]:
    """Let worker threads go through the blocks of a tensor.

    Args:
        tensor: at least one coordinate.
        block: task values of a block.
        work: called once by each worker, with an iterator over the slices that this
            worker gets: the next one of a common queue whenever it asks.

    Returns:
        What each call returned, in no particular order.
    """
    spans = tensor.spans(block)
    if len(spans) == 1:
        with one_torch_thread():
            return [work(iter(spans))]
    # Before torch is told to use one thread only.
    most = tensor.workers
    workers = min(most, len(spans))
    queue = deque(spans)

    def next_spans() -> Iterator[slice]:
        while True:
            try:
                yield queue.popleft()
            except IndexError:
                return

    def run() -> T:
        try:
            return work(next_spans())
        finally:
            # After an error or Ctrl-C the others need not go on.
            queue.clear()

    def run_in_thread() -> T:
        torch.set_num_threads(1)
        return run()

    with one_torch_thread():
        if workers == 1:
            return [run()]
        pool = _pool(most - 1, os.getpid())
        others = [pool.submit(run_in_thread) for _ in range(workers - 1)]
        try:
            mine = run()
        finally:
            wait(others)  # they may still write
        return [mine, *(other.result() for other in others)]


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads for all tensors. A forked process has none of those of its parent."""
    return ThreadPoolExecutor(workers)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Make torch use the calling thread only, and restore its setting afterwards.

    torch splits even small blocks over its own threads, which wait for each other at
    every operation: tens of times slower when the machine is busy. What a worker sets
    is also the default of threads yet to come, so it is restored here as well.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
