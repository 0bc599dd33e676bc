"""A random sample of a tensor's task vectors, and digests of all its weights."""

from __future__ import annotations

import hashlib
import itertools
import math
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from mergekit.merge_methods import TensorGroup

from mergekit_pcb.kernel.errors import NotFiniteError
from mergekit_pcb.kernel.task_vectors import TaskVectors, all_finite
from mergekit_pcb.plugin.tensor_groups import ChangedError, name_of, task_vectors

# The sample has one coordinate in this many, at least and at most so many.
_RATE = 512
_LEAST = 1 << 12
SAMPLE_MOST = 1 << 22


@dataclass
class TensorSample:
    """The result of the first pass for one tensor.

    Not a tuple: executors move tensors in tuples to the device of the results.

    Attributes:
        size: coordinates d.
        tau: (n, m) task vectors at m coordinates drawn uniformly.
        digests: for each model a digest of its weights and the base's.
    """

    size: int
    tau: torch.Tensor
    digests: Sequence[bytes]


def draw(vectors: TaskVectors, name: str) -> TensorSample:
    """Task vectors at random coordinates, and checksums of all weights.

    Raises:
        NotFiniteError: a task vector in the sample holds NaN or infinity.
    """
    tau = draw_coordinates(vectors, name)
    base = 0 if vectors.base is None else _checksum(vectors.base)
    digests = [
        # A sum is the same if two values change places; the sample is not.
        hashlib.sha256(f"{base} {_checksum(model)} ".encode() + row.tobytes()).digest()
        for model, row in zip(vectors.models, tau.numpy(), strict=True)
    ]
    return TensorSample(vectors.size, tau, digests)


def draw_coordinates(vectors: TaskVectors, name: str) -> torch.Tensor:
    """(n, m) task vectors at m random coordinates of a tensor, on the CPU.

    Raises:
        NotFiniteError: one holds NaN or infinity.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    count = max(vectors.size // _RATE, _LEAST)
    where = torch.randint(
        vectors.size, (count,), generator=generator, device=generator.device
    )
    tau = vectors.at(where.to(vectors.device)).cpu()
    if not all_finite(tau):
        raise NotFiniteError
    return tau


def joined(parts: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """The (n, m) sample of a domain, of the size and coordinates of each tensor."""
    counts = sample_counts([size for size, _ in parts])
    drawn = [tau[:, :count] for (_, tau), count in zip(parts, counts, strict=True)]
    return torch.cat(drawn, dim=1)


def sample_counts(sizes: Sequence[int]) -> list[int]:
    """How many coordinates of each tensor are in the sample of a domain."""
    total = sum(sizes)
    count = max(min(total // _RATE, SAMPLE_MOST), _LEAST)
    # The sums are rounded, so that parts of less than one coordinate are not all lost.
    ends = [round(count * end / total) for end in itertools.accumulate(sizes)]
    # Of each tensor at least `_LEAST` are drawn, which may be less than its part.
    return [
        min(end - start, max(size // _RATE, _LEAST))
        for size, start, end in zip(sizes, [0, *ends], ends, strict=False)
    ]


def most_needed(size: int, seen: int) -> int:
    """How many coordinates of a tensor the sample of a domain has at most.

    Args:
        size: of the tensor.
        seen: coordinates of all tensors of the domain so far, this one among them.
    """
    return max(size // _RATE, math.ceil(_LEAST * size / seen)) + 1


def _checksum(flat: torch.Tensor) -> int:
    """A sum over a flat tensor that differs if any one value does."""
    data = flat.contiguous().view(torch.uint8)
    if data.storage_offset() % 8:
        data = data.clone()
    # As 64-bit words: torch takes sixty times as long for single bytes.
    end = data.numel() // 8 * 8
    return int(data[:end].view(torch.int64).sum()) + int(data[end:].sum())


def require_digests(
    group: TensorGroup, models: Sequence[Hashable], digests: Sequence[bytes]
) -> None:
    """Check that a tensor's inputs are what they were when statistics were computed.

    Args:
        group: inputs of the tensor.
        models: ids of the models, in the order of the digests.
        digests: of each model then.

    Raises:
        ChangedError: a model, or the base, has changed.
        NotFiniteError: a task vector in the sample holds NaN or infinity.
    """
    now = draw(task_vectors(group, models), name_of(group)).digests
    for model, before, after in zip(models, digests, now, strict=True):
        if before != after:
            raise ChangedError(f"the weights of {model}, or of the base, were")
