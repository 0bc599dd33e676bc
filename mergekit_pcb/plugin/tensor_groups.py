"""From mergekit's tensor groups to task vectors."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from mergekit.merge_methods import TensorGroup

from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.order_statistics import NotFiniteError
from mergekit_pcb.kernel.task_vectors import TaskVectors


def task_vectors(
    group: TensorGroup, models: Sequence[Hashable] | None = None
) -> TaskVectors:
    """The task vectors of a group.

    Args:
        group: inputs of one tensor, a base among them.
        models: ids of the models wanted, in order; one that the group lacks counts
            as having left the tensor untouched. Default: those of the group.
    """
    assert group.base is not None, "the contract requires a base"
    base = group.base.tensor
    present = {entry.id: entry.tensor for entry in group.non_base}
    wanted = list(present) if models is None else models
    return TaskVectors.of(base, [present.get(model, base) for model in wanted])


@contextmanager
def naming_culprit(groups: Sequence[TensorGroup]) -> Iterator[None]:
    """Say which input holds NaN or infinity, once one is known to be there.

    Raises:
        PCBError: instead of `NotFiniteError`.
    """
    try:
        yield
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


def name_of(group: TensorGroup) -> str:
    """What errors and reports call a tensor."""
    return group.metadata.name or "a tensor"
