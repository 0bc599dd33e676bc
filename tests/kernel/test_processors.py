"""The same merge on a processor that can do less."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

_DIGESTS = """
import hashlib, torch
from mergekit_pcb.kernel import backends
from mergekit_pcb.kernel.domain import Options
from mergekit_pcb.kernel.task_vectors import TaskVectors
from mergekit_pcb.kernel.merge import merge_one_tensor

def heavy_tailed(n, size, seed=0):
    # torch's random normal numbers, and its exponentials, depend on the processor.
    uniform = torch.rand(n, size, generator=torch.Generator().manual_seed(seed)) - 0.5
    return uniform * uniform.abs() * uniform.abs() * uniform.abs()

assert not backends.numba_problem()
for size, factor in ((1000, 1), (150_001, 1), (150_001, 30)):
    base = heavy_tailed(1, size, seed=1)[0].bfloat16()
    models = [(base + factor * row).bfloat16() for row in heavy_tailed(3, size)]
    for problem in ("", "off"):
        for inter in ("raw", "normalized", "pairwise"):
            backends.numba_problem = lambda: problem
            vectors = TaskVectors.of(base, models)
            options = Options(inter)
            merged = merge_one_tensor(vectors, [0.1] * 3, [1.0] * 3, options=options)
            assert not torch.equal(merged, base)
            data = merged.view(torch.uint8).numpy().tobytes()
            print(size, factor, inter, hashlib.sha256(data).hexdigest())
"""


def test_older_processors_give_the_same_bits() -> None:
    """Neither torch nor numpy nor numba may use what only some processors have."""
    from numpy._core._multiarray_umath import __cpu_dispatch__ as optional

    plain = {
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": " ".join(optional),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
    }
    here, there = digests(), digests(**plain)
    assert here == there
    # With and without compiled loops, too.
    assert len(set(here.splitlines())) == len(here.splitlines()) / 2


def digests(**environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _DIGESTS],
        env={**os.environ, "MERGEKIT_PCB_NUMBA": "1", **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
