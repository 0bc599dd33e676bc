"""PCB-Merging of tensors too large to work on at once: exact, in bounded memory.

A domain is swept in blocks that fit in the processor's cache: once for the range of
the magnitudes, once for the scores, once to merge. Every sweep computes the scores
anew with the operations of `mergekit_pcb.balancing`, so block size and number of
threads leave no trace in the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from mergekit_pcb.balancing import (
    ModelStatistics,
    balance,
    clamp_ranks,
    merge_block,
    merge_task_vectors,
    new_room,
    threshold_rank,
)
from mergekit_pcb.selection import Bracket, observe

# Task values in flight, over all threads: larger blocks fall out of the cache,
# smaller ones pay more for calls than for arithmetic.
_CPU_BLOCK = 1 << 18
_GPU_BLOCK = 1 << 24
# Task values drawn to place the brackets, and values collected inside them at a time.
_SAMPLE = 1 << 20
_COLLECTED = 3 << 20

T = TypeVar("T")
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of (n, m) task vectors, and room for results, the (n, m) values to survey."""


class NotFiniteError(ValueError):
    """A task vector holds NaN or infinity."""


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors of n models on one tensor, computed a block at a time.

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
    def dtype(self) -> torch.dtype:
        """float64 if an input is, else float32: (1e-4)^2 is zero in float16."""
        inputs = [*self.models] if self.base is None else [self.base, *self.models]
        wide = any(tensor.dtype == torch.float64 for tensor in inputs)
        return torch.float64 if wide else torch.float32

    def room(self, count: int) -> torch.Tensor:
        """Memory for a block at ``count`` coordinates, and `new_room` for it."""
        shape = (4, len(self.models), count)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def block(
        self, where: slice | torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The (n, m) task vectors at a slice, or at (m,) indices."""
        rows = [tensor[where] for tensor in self.models]
        tau = self.room(len(rows[0]))[0] if out is None else out
        for task_vector, row in zip(tau, rows, strict=True):
            task_vector.copy_(row)
        if self.base is not None:
            tau -= self.base[where].to(self.dtype)
        return tau

    def spans(self, workers: int) -> list[slice]:
        """Slices that make blocks of a good size for so many threads."""
        budget = _CPU_BLOCK // workers if self.device.type == "cpu" else _GPU_BLOCK
        # Whole cache lines, whatever the number of models.
        step = max(budget // len(self.models) // 64 * 64, 64)
        return [
            slice(start, min(start + step, self.size))
            for start in range(0, self.size, step)
        ]


def _require_finite(tops: Sequence[float]) -> None:
    for i, top in enumerate(tops):
        if not top < math.inf:
            raise NotFiniteError(f"task vector {i} is not finite")


@dataclass
class Survey:
    """What a sweep learns of each model's values: some of their ranks, and the top."""

    brackets: list[list[Bracket]]
    top: list[float]

    @classmethod
    def of(cls, brackets: list[list[Bracket]]) -> Survey:
        """A survey that has yet to see anything."""
        return cls(brackets, [-math.inf] * len(brackets))

    def observe(self, values: torch.Tensor) -> None:
        """Take in a block of (n, m) values."""
        tops = values.amax(dim=1).tolist()
        _require_finite(tops)
        self.top = list(map(max, self.top, tops))
        for brackets, row in zip(self.brackets, values, strict=True):
            observe(brackets, row)

    def absorb(self, other: Survey) -> None:
        """Add what another part of the sweep has seen."""
        self.top = list(map(max, self.top, other.top))
        for mine, theirs in zip(self.brackets, other.brackets, strict=True):
            for bracket, seen in zip(mine, theirs, strict=True):
                bracket.absorb(seen)

    def on_cpu(self) -> Survey:
        """The same, with what was collected off the accelerator."""
        for row in self.brackets:
            for bracket in row:
                bracket.inside = [values.cpu() for values in bracket.inside]
        return self

    def fresh(self) -> Survey:
        """The same questions before anything was seen."""
        return Survey.of([[b.fresh() for b in row] for row in self.brackets])


class Domain(Protocol):
    """A set of coordinates, on which n models compete, that can be swept."""

    @property
    def models(self) -> int:
        """Number n of models."""
        ...

    @property
    def size(self) -> int:
        """Number d of coordinates."""
        ...

    @property
    def room(self) -> int:
        """How many values, of all models, a sweep may collect."""
        ...

    def sample(self) -> torch.Tensor:
        """The (n, m) task vectors at m coordinates drawn uniformly."""
        ...

    def sweep(self, measure: Measure, survey: Survey) -> None:
        """Show ``survey`` the ``measure`` of every block of task vectors."""
        ...


@dataclass(frozen=True)
class TensorDomain:
    """A domain of tensors that are all in memory."""

    tensors: Sequence[TaskVectors]

    @property
    def models(self) -> int:  # noqa: D102 as in Domain
        return len(self.tensors[0].models)

    @property
    def size(self) -> int:  # noqa: D102
        return sum(tensor.size for tensor in self.tensors)

    @property
    def room(self) -> int:  # noqa: D102
        return _COLLECTED

    def sample(self) -> torch.Tensor:  # noqa: D102
        count = min(_SAMPLE // self.models, max(self.size // 256, 4096))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(
            self.size, (count,), generator=generator, device=generator.device
        )
        parts, start = [], 0
        for tensor in self.tensors:
            here = drawn[(drawn >= start) & (drawn < start + tensor.size)] - start
            parts.append(tensor.block(here.to(tensor.device)))
            start += tensor.size
        return torch.cat(parts, dim=1)

    def sweep(self, measure: Measure, survey: Survey) -> None:  # noqa: D102
        for tensor in self.tensors:
            survey_tensor(tensor, measure, survey)


def survey_tensor(tensor: TaskVectors, measure: Measure, survey: Survey) -> None:
    """Show ``survey`` the ``measure`` of one tensor, block by block."""

    def visit(span: slice, tau: torch.Tensor, room: torch.Tensor) -> Survey:
        seen = survey.fresh()
        seen.observe(measure(tau, room))
        return seen

    for seen in each_block(tensor, visit):
        survey.absorb(seen)


def model_statistics(
    domain: Domain,
    density: Sequence[Sequence[float]],
    *,
    inter: str = "raw",
    clamp: float = 0.01,
) -> list[list[ModelStatistics]]:
    """Exact statistics of a domain from two sweeps over it.

    Args:
        domain: at least one coordinate.
        density: for each model the densities whose thresholds are wanted.
        inter: form of the inter-balancing.
        clamp: fraction of magnitudes clamped at each end.

    Returns:
        For each model, one `ModelStatistics` a density.

    Raises:
        NotFiniteError: an input holds NaN or infinity.
    """
    n, size = domain.models, domain.size
    with _one_torch_thread():
        sample = domain.sample()
    ends = [clamp_ranks(size, clamp)] * n
    extents, _ = _ranked(domain, _magnitudes, ends, sample)
    pairs = [(low, high) for low, high in extents]

    def scores(tau: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
        return balance(tau, pairs, inter, room)[1]

    ranks = [[threshold_rank(size, r) for r in row] for row in density]
    thresholds, top = _ranked(domain, scores, ranks, sample)
    return [
        [ModelStatistics.of(*pair, threshold, highest) for threshold in row]
        for pair, row, highest in zip(pairs, thresholds, top, strict=True)
    ]


def _ranked(
    domain: Domain,
    measure: Measure,
    ranks: Sequence[Sequence[int]],
    sample: torch.Tensor,
) -> tuple[list[list[float]], list[float]]:
    """The values at each model's ranks, and its largest value.

    One sweep, unless a bracket misses or there are so many models that what lies
    inside their brackets must be collected in turns.
    """
    with _one_torch_thread():
        measured = _measured(measure, sample)
    found: list[list[float]] = [[] for _ in ranks]
    slack = [1.0] * len(ranks)
    pending = [i for i, row in enumerate(ranks) if row]
    while True:
        survey = Survey.of([[] for _ in ranks])
        room: float = domain.room
        for i in pending:
            brackets = [
                Bracket.around(k, domain.size, measured[i], slack[i]) for k in ranks[i]
            ]
            room -= sum(bracket.expected for bracket in brackets)
            if room < 0 and any(survey.brackets):
                break
            survey.brackets[i] = brackets
        domain.sweep(measure, survey)
        for i, brackets in enumerate(survey.brackets):
            values = [bracket.value() for bracket in brackets]
            if None in values:
                slack[i] *= 4
            elif values:
                found[i] = [value for value in values if value is not None]
        pending = [i for i in pending if not found[i]]
        if not pending:
            return found, survey.top


def _measured(measure: Measure, sample: torch.Tensor) -> torch.Tensor:
    parts = torch.split(sample, _CPU_BLOCK, dim=1)
    return torch.cat([measure(part, new_room(part)) for part in parts], dim=1)


def _magnitudes(tau: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    return torch.abs(tau, out=room[0])


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
    like = tensor.models[0] if tensor.base is None else tensor.base
    out = torch.empty_like(like)

    def visit(span: slice, tau: torch.Tensor, room: torch.Tensor) -> None:
        merged = merge_block(tau, statistics, weight, inter, room)
        _put(out, span, tensor.base, merged, scale)

    for _ in each_block(tensor, visit):
        pass
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
    spans = tensor.spans(workers=1)
    if len(spans) > 1:
        domain = TensorDomain([tensor])
        each = model_statistics(
            domain, [[r] for r in density], inter=inter, clamp=clamp
        )
        statistics = [of_model[0] for of_model in each]
        return merge_tensor(tensor, statistics, weight, scale=scale, inter=inter)
    like = tensor.models[0] if tensor.base is None else tensor.base
    out = torch.empty_like(like)
    with _one_torch_thread():
        for span in spans:
            tau = tensor.block(span)
            _require_finite(tau.abs().amax(dim=1).tolist())
            merged = merge_task_vectors(
                tau, density=density, weight=weight, inter=inter, clamp=clamp
            )
            _put(out, span, tensor.base, merged, scale)
    return out


def _put(
    out: torch.Tensor,
    span: slice,
    base: torch.Tensor | None,
    merged: torch.Tensor,
    scale: float,
) -> None:
    merged *= scale
    if base is not None:
        merged += base[span].to(merged.dtype)
    out[span] = merged


def each_block(
    tensor: TaskVectors, visit: Callable[[slice, torch.Tensor, torch.Tensor], T]
) -> Iterator[T]:
    """``visit`` every block of a tensor, on as many threads as torch was given.

    Each visit gets the block's span, its (n, m) task vectors, and room for results.
    """
    workers = torch.get_num_threads() if tensor.device.type == "cpu" else 1
    spans = tensor.spans(workers)
    largest = spans[0].stop
    rooms = [tensor.room(largest).view(-1) for _ in range(min(workers, len(spans)))]

    def lend(span: slice) -> T:
        memory = rooms.pop()
        shape = (4, len(tensor.models), span.stop - span.start)
        tau, *_ = room = memory[: math.prod(shape)].view(shape)
        try:
            return visit(span, tensor.block(span, out=tau), room[1:])
        finally:
            rooms.append(memory)

    with _one_torch_thread():
        if len(rooms) == 1:
            yield from map(lend, spans)
            return
        with ThreadPoolExecutor(
            len(rooms), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            try:
                yield from pool.map(lend, spans)
            finally:
                pool.shutdown(cancel_futures=True)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
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
