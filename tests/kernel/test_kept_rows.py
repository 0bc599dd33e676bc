"""What is kept of a merge gives the bits of the merge, whatever its size and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mergekit_pcb.kernel import kept_rows
from mergekit_pcb.kernel.domain import ModelStatistics, Options
from mergekit_pcb.kernel.formula import model_statistics
from mergekit_pcb.kernel.kept_rows import (
    BLOCK,
    Arithmetic,
    KeptRows,
    pack,
    rows_of_models,
    unit_of,
    write_merge,
)
from mergekit_pcb.kernel.merge import merge_tensor
from mergekit_pcb.kernel.statistics import TensorDomain
from mergekit_pcb.kernel.task_vectors import TaskVectors

SIZE = 2 * BLOCK + 1001


def kept(rows: torch.Tensor, deciding: int) -> KeptRows:
    blocks = [
        pack(rows[:, i : i + BLOCK].numpy(), deciding)
        for i in range(0, rows.shape[1], BLOCK)
    ]
    starts = np.cumsum([0, *(len(packed) for packed, _ in blocks)])[:-1]
    return KeptRows(
        np.concatenate([packed for packed, _ in blocks]),
        starts.astype(np.int64),
        np.array([count for _, count in blocks], dtype=np.int32),
        len(rows),
    )


def family(dtype: torch.dtype) -> tuple[TaskVectors, list[ModelStatistics]]:
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(SIZE, generator=generator)
    models = [base + torch.randn(SIZE, generator=generator) ** 3 for _ in range(3)]
    # Of the first block nothing is left, and of the others some.
    models = [torch.cat([base[:BLOCK], m[BLOCK:]]) for m in models]
    tensor = TaskVectors.of(base.to(dtype), [m.to(dtype) for m in models])
    found = model_statistics(TensorDomain([tensor]), [[0.15]] * 3, Options())
    return tensor, [of_model[0] for of_model in found]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_model", [True, False])
def test_it_merges_again_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, dtype: torch.dtype, by_model: bool
) -> None:
    """With any lambda, and with any weights where each model has a row."""
    if not compiled:
        monkeypatch.setattr(kept_rows, "numba_problem", lambda: "switched off")
    tensor, statistics = family(dtype)
    weights = [0.7, 1.3, -0.4]
    tau = tensor.between(slice(0, SIZE))
    if by_model:
        rows = rows_of_models(tau, statistics, "raw")
    else:
        changes = TaskVectors(None, list(tau))
        rows = merge_tensor(changes, statistics, weights)[None]
    few = kept(rows, 3 if by_model else 1)
    assert few.counts[0] == 0
    assert BLOCK > few.counts[1] > 0
    assert tensor.base is not None
    for scale in (0.3, 1.7):
        how = Arithmetic(
            weights if by_model else None,
            by_model,
            unit_of(statistics, "raw") if by_model else 1.0,
            scale,
            dtype,
            dtype,
            in_steps=False,
        )
        out = tensor.base.float().clone()
        write_merge(few, how, tensor.base, out)
        real = merge_tensor(tensor, statistics, weights, scale=scale)
        assert torch.equal(out, real.float())


def test_tiny_task_vectors_have_a_unit() -> None:
    """Rows of values whose products would underflow are in a unit of their own."""
    tensor, _ = family(torch.float32)
    changes = TaskVectors(None, list(tensor.between(slice(0, SIZE)) * 1e-25))
    found = model_statistics(TensorDomain([changes]), [[0.15]] * 3, Options())
    statistics = [of_model[0] for of_model in found]
    assert unit_of(statistics, "raw") != 1
    rows = rows_of_models(changes.between(slice(0, SIZE)), statistics, "raw")
    how = Arithmetic(
        [1.0, 2.0, 3.0],
        True,
        unit_of(statistics, "raw"),
        1.5,
        torch.float32,
        torch.float32,
        in_steps=False,
    )
    out = torch.zeros(SIZE)
    write_merge(kept(rows, 3), how, torch.zeros(SIZE), out)
    real = merge_tensor(changes, statistics, [1.0, 2.0, 3.0])
    assert torch.equal(out, real * 1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 3, 16, 17, 24])
def test_sums_of_mergekit_have_its_order(n: int, dtype: torch.dtype) -> None:
    """Of task_arithmetic; torch adds up many models in another order than few."""
    drawn = torch.Generator().manual_seed(n)
    # No coordinates beyond whole vectors of the processor.
    rows = (0.01 * torch.randn(n, 4096, generator=drawn)).to(dtype)
    base = torch.randn(4096, generator=drawn).to(dtype)
    weights = torch.linspace(0.1, 1.3, n).tolist()
    how = Arithmetic(weights, False, 1.0, 1.7, dtype, torch.float32, in_steps=True)
    out = base.float().clone()
    write_merge(kept(rows.float(), n), how, base, out)
    total = (rows * torch.tensor(weights, dtype=dtype)[:, None]).sum(dim=0)
    assert torch.equal(out, (base + total * 1.7).float())


def test_pack_keeps_the_smaller_form() -> None:
    """Coordinates are kept where that is smaller than the whole block."""
    rows = np.zeros((1, BLOCK), dtype=np.float32)
    rows[0, ::4] = 1
    packed, count = pack(rows, 1)
    assert (len(packed), count) == (BLOCK // 4 + BLOCK // 8, BLOCK // 4)
    rows[0] = 1
    packed, count = pack(rows, 1)
    assert (len(packed), count) == (BLOCK, BLOCK)
