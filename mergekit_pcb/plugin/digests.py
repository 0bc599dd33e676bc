"""A random sample of a tensor's task vectors, and digests of all its weights."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from mergekit.merge_methods import TensorGroup

from mergekit_pcb.kernel.order_statistics import NotFiniteError
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.plugin.tensor_groups import ChangedError, name_of

# The sample has one coordinate in this many, and at least so many.
SAMPLE_RATE = 512
SAMPLE_LEAST = 1 << 12


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
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    count = max(vectors.size // SAMPLE_RATE, SAMPLE_LEAST)
    where = torch.randint(
        vectors.size, (count,), generator=generator, device=generator.device
    )
    tau = vectors.at(where.to(vectors.device)).cpu()
    if not tau.isfinite().all():
        raise NotFiniteError
    base = 0 if vectors.base is None else _checksum(vectors.base)
    digests = [
        # A sum is the same if two values change places; the sample is not.
        hashlib.sha256(f"{base} {_checksum(model)} ".encode() + row.tobytes()).digest()
        for model, row in zip(vectors.models, tau.numpy(), strict=True)
    ]
    return TensorSample(vectors.size, tau, digests)


def _checksum(flat: torch.Tensor) -> int:
    """A sum over a flat tensor that differs if any one value does."""
    data = flat.contiguous().view(torch.uint8)
    if data.storage_offset() % 8:
        data = data.clone()
    # As 64-bit words: torch takes sixty times as long for single bytes.
    end = data.numel() // 8 * 8
    return int(data[:end].view(torch.int64).sum()) + int(data[end:].sum())


def require_digests(
    group: TensorGroup,
    vectors: TaskVectors,
    models: Sequence[Hashable],
    digests: Sequence[bytes],
) -> None:
    """Check that a tensor's inputs are what they were when statistics were computed.

    Args:
        group: inputs of the tensor.
        vectors: their task vectors.
        models: ids of the models of the task vectors.
        digests: of each model then.

    Raises:
        ChangedError: a model, or the base, has changed.
    """
    now = draw(vectors, name_of(group)).digests
    for model, before, after in zip(models, digests, now, strict=True):
        if before != after:
            raise ChangedError(f"the weights of {model}, or of the base, were")
