"""The task vectors of a tensor, computed block by block, on several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch

from mergekit_pcb.kernel.formula import Room, subtract_base

# Calls are made by one thread at a time, which leaves little for more workers to do.
_MOST_WORKERS = 4

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
        """The same of tensors of any shape, cut off from autograd."""
        flat = [tensor.detach().reshape(-1) for tensor in models]
        return cls(None if base is None else base.detach().reshape(-1), flat)

    @property
    def size(self) -> int:
        """Coordinates d."""
        return self.models[0].numel()

    @property
    def device(self) -> torch.device:
        """Where the inputs are and the work is done."""
        return self.models[0].device

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The models, and the base if there is one."""
        return [*self.models] if self.base is None else [*self.models, self.base]

    @cached_property
    def dtype(self) -> torch.dtype:
        """float64 if an input is, else float32: (1e-4)^2 is zero in float16."""
        wide = any(tensor.dtype == torch.float64 for tensor in self.inputs)
        return torch.float64 if wide else torch.float32

    def memory(self, rows: int, count: int) -> torch.Tensor:
        """(rows, count) memory for task values, with whatever is in it."""
        return torch.empty(rows, count, dtype=self.dtype, device=self.device)

    def output(self) -> torch.Tensor:
        """Memory for a merge: (d,), of the base's dtype, or else the models'."""
        return torch.empty_like(self.models[0] if self.base is None else self.base)

    def at(self, where: torch.Tensor) -> torch.Tensor:
        """The (n, m) task vectors at (m,) indices."""

        # Unlike indexing, this does not wait for torch's threads.
        def pick(part: torch.Tensor) -> torch.Tensor:
            return part.index_select(0, where)

        workers = self.workers
        with one_torch_thread():
            if workers == 1:
                drawn = list(map(pick, self.inputs))
            else:
                # What is still to be read from a file is waited for, by several.
                with _pool(workers) as pool:
                    drawn = list(pool.map(pick, self.inputs))
            models, base = drawn[: len(self.models)], drawn[len(self.models) :]
            vectors = TaskVectors(base[0] if base else None, models)
            return vectors.between(slice(0, len(where)))

    def between(self, span: slice, memory: torch.Tensor | None = None) -> torch.Tensor:
        """The (n, m) task vectors at a slice, in (n + 1, m) memory or new one."""
        if memory is None:
            memory = self.memory(len(self.models) + 1, span.stop - span.start)
        base = None if self.base is None else self.base[span]
        return subtract_base([model[span] for model in self.models], base, memory)

    @property
    def workers(self) -> int:
        """On how many threads to work: what torch was given, up to a number."""
        on_cpu = self.device.type == "cpu"
        return min(torch.get_num_threads(), _MOST_WORKERS) if on_cpu else 1

    def spans(self, block: int) -> list[slice]:
        """Slices that make blocks of so many task values, or fewer."""
        # No more memory for many workers than for two.
        budget = block * 2 // max(self.workers, 2)
        # Whole cache lines, whatever the number of models.
        step = max(budget // len(self.models) // 64 * 64, 64)
        return [
            slice(start, min(start + step, self.size))
            for start in range(0, self.size, step)
        ]


class Block(NamedTuple):
    """Some coordinates of a tensor.

    Attributes:
        span: where they are.
        tau: (n, m) task vectors there.
        room: memory for intermediate results, with whatever is in it.
    """

    span: slice
    tau: torch.Tensor
    room: Room


class Share(NamedTuple):
    """What one worker gets to do.

    Attributes:
        spans: slices of a tensor; in no particular order, and while there are any.
        largest: coordinates in the largest of them.
    """

    spans: Iterable[slice]
    largest: int

    def blocks(self, tensor: TaskVectors) -> Iterator[Block]:
        """The task vectors there; each block is gone when the next one comes."""
        # Fresh memory for every block would cost more than the arithmetic.
        n = len(tensor.models)
        memory = tensor.memory(4 * n + 2, self.largest).view(-1)
        for span in self.spans:
            count = span.stop - span.start
            rows = memory[: (4 * n + 2) * count].view(-1, count)
            yield Block(span, tensor.between(span, rows[: n + 1]), Room.of(rows[n:]))


def share_out(
    tensor: TaskVectors, block: int, work: Callable[[Share], T]
) -> Sequence[T]:
    """Let several workers do their share of blocks of so many task values."""
    spans = tensor.spans(block)
    workers = min(tensor.workers, len(spans))
    largest = spans[0].stop
    waiting = deque(spans)

    def some() -> Iterator[slice]:
        while True:
            try:
                yield waiting.popleft()
            except IndexError:
                return

    def take_part() -> T:
        try:
            return work(Share(some(), largest))
        finally:
            # After an error or Ctrl-C the others need not go on.
            waiting.clear()

    with one_torch_thread():
        if workers == 1:
            return [take_part()]
        with _pool(workers - 1) as pool:
            others = [pool.submit(take_part) for _ in range(workers - 1)]
            return [take_part(), *(other.result() for other in others)]


def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch to the calling thread, and put its setting back afterwards.

    torch splits even small blocks over its own threads, which wait for each other at
    every operation: tens of times slower when the machine is busy. What a worker sets
    is also the default of threads yet to come, so it is put back here as well.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
