"""One tensor on a GPU: the CPU's result, time, and share of the memory bandwidth.

    python -m experiments.benchmark_gpu [--out FOLDER] [--quick]

Methods take turns through mergekit's own `merge_tensors`, on the same bfloat16 inputs.
The share is what a method has to move at least (each input and the output, once) over
its time, beside the bandwidth of a copy on the same device. A merge on the GPU and one
on the CPU may differ in the last bit, because exponentials do: where a score falls on
the other side of its threshold, a whole task value comes or goes. Both are counted.
Without a CUDA device the script says so and measures nothing.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import torch

from experiments.benchmark_kernel import environment, inputs, merge

SHAPES: dict[str, tuple[int, ...]] = {
    "norm or bias, 1,536": (1536,),
    "1M": (1024, 1024),
    "4096 x 4096": (4096, 4096),
    "embedding, 50M": (32_768, 1536),
}
METHODS = ("linear", "ties", "pcb", "pcb .1")
ROUNDS = 7
NO_DEVICE = "no CUDA device here: nothing was measured"


@click.command()
@click.option("--quick", is_flag=True, help="Leave out large tensors.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for gpu.md and gpu.json.",
)
def main(quick: bool, out: Path | None) -> None:
    """Compare a GPU's merges of one tensor with the CPU's, and time them."""
    if not torch.cuda.is_available():
        click.echo(NO_DEVICE)
        return
    device = torch.device("cuda")
    bandwidth = copy_bandwidth(device)
    rows = []
    for name in list(SHAPES)[: 2 if quick else None]:
        for models in (3, 8):
            on_cpu = inputs(SHAPES[name], models)
            row = compared(on_cpu, device, bandwidth)
            rows.append({"tensor": name, "models": models} | row)
            click.echo(json.dumps(rows[-1]))
    lines = table(rows, torch.cuda.get_device_name(device), bandwidth)
    click.echo("\n".join(lines))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        versions = ", ".join(f"{k} {v}" for k, v in environment().items())
        (out / "gpu.md").write_text("\n".join([*lines, "", versions, ""]))
        content = {"environment": environment(), "bandwidth": bandwidth, "rows": rows}
        (out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")


def compared(
    on_cpu: list[torch.Tensor], device: torch.device, bandwidth: float
) -> dict[str, float]:
    """Differences of the merges on both devices, and each method's time and share.

    Args:
        on_cpu: the base and the models.
        device: of the merges that are timed.
        bandwidth: bytes a second that count as all.
    """
    there = [tensor.to(device) for tensor in on_cpu]
    found: dict[str, float] = {}
    for method in METHODS:
        result = merge(there, method).cpu()
        found[f"{method} differs"] = share_that_differs(result, merge(on_cpu, method))
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(ROUNDS):
        for method, taken in seconds.items():
            _wait(device)
            start = time.perf_counter()
            merge(there, method)
            _wait(device)
            taken.append(time.perf_counter() - start)
    for method, taken in seconds.items():
        read = there[1:] if method == "linear" else there
        moved = sum(tensor.nbytes for tensor in (*read, there[0]))
        found[f"{method} s"] = statistics.median(taken)
        found[f"{method} bandwidth"] = moved / found[f"{method} s"] / bandwidth
    return found


def share_that_differs(one: torch.Tensor, other: torch.Tensor) -> float:
    """The share of values that differ by more than two units in the last place."""
    a, b = one.float(), other.float()
    unit = torch.finfo(one.dtype).eps * torch.maximum(a.abs(), b.abs())
    return float(((a - b).abs() > 2 * unit).double().mean())


def copy_bandwidth(device: torch.device, size: int = 1 << 30) -> float:
    """Bytes a second that a copy within the device reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    taken = []
    for _ in range(ROUNDS):
        _wait(device)
        start = time.perf_counter()
        target.copy_(source)
        _wait(device)
        taken.append(time.perf_counter() - start)
    return 2 * size / statistics.median(taken)


def table(rows: list[dict[str, Any]], name: str, bandwidth: float) -> list[str]:
    """A row a tensor and number of models."""
    heading = (
        f"{name}; a copy moves {bandwidth / 1e9:.0f} GB a second. Medians of {ROUNDS} "
        "runs, in turns; values that differ from the CPU's by more than two units in "
        "the last place."
    )
    columns = ["tensor", "models", "pcb / linear", "pcb / ties"]
    columns += [f"`{method}` of bandwidth" for method in METHODS]
    columns += [f"`{method}` differs" for method in METHODS]
    lines = [heading, "", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for row in rows:
        cells = [row["tensor"], str(row["models"])]
        cells += [f"{row['pcb s'] / row[f'{peer} s']:.2f}" for peer in METHODS[:2]]
        cells += [f"{row[f'{method} bandwidth']:.1%}" for method in METHODS]
        cells += [f"{row[f'{method} differs']:.1e}" for method in METHODS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
