"""One thread: on a busy machine, several wait for each other at every operation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mergekit_pcb.kernel.task_vectors import one_torch_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield
