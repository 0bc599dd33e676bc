"""Whole runs of `mergekit-yaml`, each its own process: how long, how much memory."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import click

# Each method as its users would call it; nothing here decides how much work it has.
# Those in -plain run without the compiled loops.
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 1.0},
    "ties": {"weight": 1.0, "density": 0.2},
    "dare_ties": {"weight": 1.0, "density": 0.2},
    "pcb": {"density": 0.2},
    "pcb-0.1": {"density": 0.1},
    "pcb-model": {"density": 0.2, "scope": "model"},
    "pcb-plain": {"density": 0.2},
    "task_arithmetic": {"weight": 0.4},
}
# Of commands that make models.
work_option = click.option(
    "--work",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder for the models.  [default: a temporary one]",
)
_PACKAGES = ("mergekit-pcb", "mergekit", "torch", "transformers", "safetensors")


class Usage(NamedTuple):
    """What one process took.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: on all cores together; other work on the machine hardly adds to it.
        peak_mb: largest resident memory, in MB of 10^6 bytes.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float


def measure(command: list[str], **environment: str) -> Usage:
    """Run a command that must succeed.

    Linux counts the memory of the process that starts another as that of the started
    one, so the caller must be small: it must not have imported torch.
    """
    assert "torch" not in sys.modules
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)}: {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Usage(seconds, cpu_seconds, usage.ru_maxrss * unit / 1e6)


def merge(
    models: Path, method: str, shard_size: str, number: int | None = None
) -> Usage:
    """Merge so many fine-tunes in a folder of models; the merged model is deleted."""
    recipe, out = models / f"{method}.yml", models / "merged"
    recipe.write_text(json.dumps(recipe_for(models, method, number)))  # JSON is YAML
    options = ["--quiet", "--no-copy-tokenizer", "--out-shard-size", shard_size]
    try:
        command = [script("mergekit-yaml"), str(recipe), str(out), *options]
        plain = {"MERGEKIT_PCB_NUMBA": "0"} if method.endswith("-plain") else {}
        return measure(command, **plain)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def recipe_for(models: Path, method: str, number: int | None = None) -> dict[str, Any]:
    """The recipe of one row of the table, for all fine-tunes or so many."""
    tuned = sorted(path for path in models.glob("tuned*") if path.is_dir())[:number]
    recipe: dict[str, Any] = {
        "merge_method": method.partition("-")[0],
        "models": [{"model": str(path.absolute())} for path in tuned],
        "parameters": METHODS[method],
        "dtype": "bfloat16",
    }
    if method != "linear":
        recipe["base_model"] = str((models / "base").absolute())
    return recipe


def imports() -> Usage:
    """What every run takes before it does anything."""
    return measure([script("mergekit-yaml"), "--help"])


def script(name: str) -> str:
    """The path of a command that is installed beside this Python."""
    command = shutil.which(name, path=sysconfig.get_path("scripts"))
    if command is None:
        raise click.ClickException(f"{name} is not installed beside this Python")
    return command


def make_models(folder: Path, **size: int) -> None:
    """Write synthetic models in another process, which may be large."""
    options = [f"--{name}={value}" for name, value in size.items()]
    code = [sys.executable, "-m", "experiments.synthetic_llama", str(folder), *options]
    subprocess.run(code, check=True)


def conditions() -> dict[str, Any]:
    """Versions and machine, for the record."""
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")  # on Linux, platform.processor() is often empty
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        cpu = next(iter(names), cpu)
    return {
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "machine": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
            "load before": round(os.getloadavg()[0], 1),
        },
    }


def record(markdown: Path, lines: Sequence[str], found: dict[str, Any]) -> None:
    """Write a table, what it was measured on, and a JSON file of all that was found."""
    about = [
        ", ".join(f"{k} {v}" for k, v in found[part].items()) + "."
        for part in ("size", "versions", "machine")
    ]
    markdown.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*lines, "", "\n\n".join(about), ""])
    markdown.write_text(text, encoding="utf-8")
    document = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    markdown.with_suffix(".json").write_text(document, encoding="utf-8")
