"""From mergekit's tensor groups to task vectors, and errors that name the input."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from mergekit.merge_methods import TensorGroup

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.errors import NotFiniteError, OverflowedError
from mergekit_pcb.kernel.task_vectors import TaskVectors

T = TypeVar("T")


def task_vectors(
    group: TensorGroup, models: Sequence[Hashable] | None = None
) -> TaskVectors:
    """The task vectors of a group.

    Args:
        group: inputs of one tensor, a base among them.
        models: ids of the models, in order; one that the group lacks counts as
            having left the tensor unchanged. Default: those of the group.
    """
    assert group.base is not None, "the contract requires a base"
    base = group.base.tensor
    present = {entry.id: entry.tensor for entry in group.non_base}
    wanted = list(present) if models is None else models
    return TaskVectors.of(base, [present.get(model, base) for model in wanted])


class ChangedError(ValueError):
    """The weights of a model are not those that its statistics were computed of."""


def on_finite_inputs(
    group: TensorGroup, work: Callable[[TensorGroup], T]
) -> tuple[T, torch.Tensor | None]:
    """Work on a group in which base and models may be infinite at the same places.

    Where the base is infinite and all models equal it, as in attention masks, the task
    vectors are NaN although nothing has changed.

    Args:
        group: inputs of one tensor.
        work: is called again with zeros at those places if it fails.

    Returns:
        The work's result, and where the zeros were, if that was necessary.

    Raises:
        PCBError: the work failed again; names the tensor and the cause.
    """
    try:
        return work(group), None
    except (NotFiniteError, OverflowedError, ChangedError):
        group, unchanged = without_equal_infinities(group)
        with naming_bad_input([group]):
            return work(group), unchanged


def without_equal_infinities(group: TensorGroup) -> tuple[TensorGroup, torch.Tensor]:
    """A copy with zeros where the base is infinite and all models equal it; where."""
    assert group.base is not None, "the contract requires a base"
    base = group.base.tensor
    unchanged = base.isinf()
    for entry in group.non_base:
        unchanged &= entry.tensor == base
    entries = tuple(
        replace(entry, tensor=entry.tensor.masked_fill(unchanged, 0))
        for entry in group.entries
    )
    return replace(group, entries=entries), unchanged


@contextmanager
def naming_bad_input(groups: Sequence[TensorGroup]) -> Iterator[None]:
    """Replace errors of the kernel by one that names the tensor and the cause.

    Raises:
        PCBError: which input of ``groups`` holds NaN or infinity, or which output
            would.
    """
    try:
        yield
    except ChangedError as error:
        raise PCBError(
            f"{error} changed in {name_of(groups[0])} while it was merged: do not "
            "write to models before the merge has ended, and merge again"
        ) from error
    except OverflowedError as error:
        (group,) = groups
        raise overflow(group, group.tensors[0].dtype) from error
    except NotFiniteError as error:
        for group in groups:
            for entry in group.entries:
                if not entry.tensor.isfinite().all():
                    raise PCBError(
                        f"{entry.id} holds NaN or infinity in {name_of(group)}: "
                        "the checkpoint is damaged"
                    ) from error
        names = ", ".join(name_of(group) for group in groups[:3])
        raise PCBError(f"task vectors overflow in {names}") from error


def overflow(group: TensorGroup, dtype: torch.dtype) -> PCBError:
    """The error for a merged tensor that is not finite in its dtype."""
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        fix = "float16 ends at 65504: write `dtype: bfloat16` or `dtype: float32`"
    else:
        fix = "lower `lambda` or `weight`"
    return PCBError(f"{name_of(group)} overflows {name} in the merge; {fix}")


def name_of(group: TensorGroup) -> str:
    """The name of a tensor in errors and reports."""
    return group.metadata.name or "a tensor"
