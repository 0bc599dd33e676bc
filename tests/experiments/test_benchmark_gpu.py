"""The benchmark of a GPU, with this processor as the device."""

from __future__ import annotations

import pytest
import torch

from experiments import benchmark_gpu
from experiments.benchmark_kernel import inputs
from tests.tiny import invoke

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_one_line_says_so() -> None:
    """Nothing is measured, and nothing fails."""
    result = invoke(benchmark_gpu.main)
    assert result.exception is None
    assert result.output.splitlines() == [benchmark_gpu.NO_DEVICE]


def test_a_device_that_does_as_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing differs, and every method has its time and its share in the table."""
    monkeypatch.setattr(benchmark_gpu, "ROUNDS", 2)
    bandwidth = benchmark_gpu.copy_bandwidth(CPU, 1 << 20)
    row = benchmark_gpu.compared(inputs((3000,), 3), CPU, bandwidth)
    for method in benchmark_gpu.METHODS:
        assert row[f"{method} differs"] == 0
        moved = 3000 * 2 * (4 if method == "linear" else 5)
        share = moved / row[f"{method} s"] / bandwidth
        assert row[f"{method} bandwidth"] == pytest.approx(share)
    rows = [{"tensor": "tiny", "models": 3} | row]
    lines = benchmark_gpu.table(rows, "a device", bandwidth)
    assert "a device" in lines[0]
    assert lines[-1].startswith("| tiny | 3 |")
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_what_counts_as_different() -> None:
    """Rounding does not, a task value that came or went does."""
    one = torch.tensor([1.0, 2.0, 0.0, -3.0], dtype=torch.bfloat16)
    other = torch.tensor([1.0078125, 2.0, 0.0, 3.0], dtype=torch.bfloat16)
    assert benchmark_gpu.share_that_differs(one, one) == 0
    assert benchmark_gpu.share_that_differs(one, other) == 0.25
