"""How long merging one tensor takes, beside the other methods: ratios from one run.

    python -m experiments.benchmark_kernel [--quick] [--out FOLDER]

Methods take turns within one process, each on the same bfloat16 inputs through
mergekit's own `merge_tensors`; the table shows ratios of medians. Memory is the growth
of the peak resident set beyond inputs and output, from a process of its own for each
method. `pcb` has its defaults, `pcb .1` and `pcb .4` another density, and `pcb plain`
runs without the loops that numba compiles.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import torch
from mergekit.merge_methods import merge_tensors

import mergekit_pcb
from mergekit_pcb.kernel import backends

SIZES = {
    "norm or bias, 1,536": ((1536,), 200),
    "1M": ((1024, 1024), 15),
    "4096 x 4096": ((4096, 4096), 5),
    "embedding, 50M": ((32_768, 1536), 3),
}
METHODS = {
    "linear": {"weight": 1.0},
    "ties": {"weight": 1.0, "density": 0.2},
    "pcb": {},
    "pcb .1": {"density": 0.1},
    "pcb .4": {"density": 0.4},
    "pcb plain": {},
}
OURS, PEERS = ("pcb", "pcb .1", "pcb .4", "pcb plain"), ("ties", "linear")
# Whose memory is measured, too.
MEASURED = ("pcb", "pcb plain", "ties")


def inputs(shape: tuple[int, ...], models: int) -> list[torch.Tensor]:
    """A base and its fine-tunes, with heavy-tailed changes of about 0.001."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator).mul_(0.02)
    tensors = [base.bfloat16()]
    for _ in range(models):
        change = torch.randn(shape, generator=generator).exp_().mul_(1e-3)
        change.mul_(torch.randn(shape, generator=generator))
        tensors.append(change.add_(base).bfloat16())
    return tensors


def merge(tensors: list[torch.Tensor], method: str) -> torch.Tensor:
    """Merge by one method, called as a user of mergekit in Python would."""
    backends.numba_problem = _without_numba if method == "pcb plain" else _WITH_NUMBA
    base_index = None if method == "linear" else 0
    name = method.partition(" ")[0]
    return merge_tensors(
        tensors, name, parameters=METHODS[method], base_index=base_index
    )


_WITH_NUMBA = backends.numba_problem


def _without_numba() -> str:
    return "switched off"


def times(shape: tuple[int, ...], models: int, rounds: int) -> dict[str, float]:
    """Median seconds of each method, in turns, after one round to warm up."""
    tensors = inputs(shape, models)
    taken: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(rounds + 1):
        for method, seconds in taken.items():
            start = time.perf_counter()
            merge(tensors, method)
            if turn:
                seconds.append(time.perf_counter() - start)
    return {method: statistics.median(seconds) for method, seconds in taken.items()}


def scratch(shape: tuple[int, ...], models: int, method: str) -> float:
    """Megabytes a merge needs beside its inputs and output, in a fresh process."""
    code = (
        "from experiments.benchmark_kernel import own_scratch; "
        f"print(own_scratch({shape}, {models}, {method!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def own_scratch(shape: tuple[int, ...], models: int, method: str) -> float:
    """The same for this process, whose peak must not have been raised before."""
    tensors = [torch.randn(shape).bfloat16()]
    tensors += [tensors[0] + 0.001 for _ in range(models)]
    # Imports count as part of the program, not of the merge.
    merge([tensor.flatten()[:1000] for tensor in tensors], method)
    before = _resident()
    _reset_peak()
    merged = merge(tensors, method)
    return (_peak() - before - merged.nbytes) / 1e6


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def environment() -> dict[str, str]:
    """What the figures depend on."""
    versions = {
        name: metadata.version(name) for name in ("mergekit", "torch", "numpy", "numba")
    }
    return {
        **versions,
        "mergekit-pcb": mergekit_pcb.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


def main() -> None:
    """Measure, print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="leave out large tensors")
    parser.add_argument("--out", type=Path, help="folder for kernel.md and kernel.json")
    asked = parser.parse_args()

    rows = []
    if problem := _WITH_NUMBA():
        sys.exit(f"numba does not work here: {problem}")
    header = ["tensor", "models"]
    header += [f"{ours} / {peer}" for ours in OURS for peer in PEERS]
    header += [f"{method} MB" for method in MEASURED]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    print(*lines, sep="\n", flush=True)
    for name, (shape, rounds) in SIZES.items():
        large = name in ("4096 x 4096", "embedding, 50M")
        if asked.quick and large:
            continue
        for models in (3, 8):
            median = times(shape, models, rounds)
            row = {"tensor": name, "models": models, "seconds": median}
            for ours in OURS:
                for peer in PEERS:
                    row[f"{ours} / {peer}"] = median[ours] / median[peer]
            for method in MEASURED:
                used = scratch(shape, models, method) if large else None
                row[f"{method} MB"] = used
            rows.append(row)
            cells = ["" if row[key] is None else _cell(row[key]) for key in header]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    environment_line = ", ".join(f"{k} {v}" for k, v in environment().items())
    print(f"\n{environment_line}")
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        table = "\n".join([*lines, "", environment_line, ""])
        (asked.out / "kernel.md").write_text(table)
        content = {"environment": environment(), "rows": rows}
        (asked.out / "kernel.json").write_text(json.dumps(content, indent=1) + "\n")


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
