"""Merge three fine-tunes of a real model with PCB and its peers, and compare.

``python -m experiments.smollm2`` fetches SmolLM2-135M and three kinds of text, makes a
short fine-tune on each, merges them through mergekit's own command with the same number
of settings for every method, chooses each method's setting on validation text, and
reports test text.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import transformers
from tqdm import tqdm

import mergekit_pcb
from experiments import smollm2_jobs as jobs
from experiments.score_table import Run
from experiments.smollm2_grid import Setting, settings
from experiments.smollm2_models import Training, prepare_base
from experiments.smollm2_packages import PACKAGES
from experiments.smollm2_report import write_report
from experiments.smollm2_texts import DOMAINS, read_documents, split_documents

TEXT_BYTES = {"train_bytes": 300_000, "validation_bytes": 3_000, "test_bytes": 6_000}
DISK_BYTES = 5 * 10**9
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
RESULTS = Path(__file__).parent / "results"


@click.command()
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=CACHE / "mergekit-pcb" / "smollm2",
    show_default=True,
    help="Folder for packages, models and recipes (about 3 GB); finished parts stay.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default=True,
    help="Folder for smollm2.md and smollm2.json.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Processes at a time. Each needs about 4 GB of memory.",
)
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Arithmetic of training and scoring; merges are always float32.",
)
def main(work: Path, out: Path, workers: int, precision: str) -> None:
    """Compare PCB with its peers on three short fine-tunes of SmolLM2-135M."""
    work = work.expanduser().absolute()
    work.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(work).free < DISK_BYTES:
        need = f"{DISK_BYTES / 1e9:.0f} GB of free disk"
        raise click.ClickException(f"{work} needs {need}; --work DIR takes another")
    conditions = _conditions(Training(precision=precision))
    # Now, while the sources are those that the workers are about to import.
    grid = {_key(setting): setting for setting in settings()}
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    study = _prepare(work, conditions)
    with _worker_pool(workers) as pool:
        models, merges = _run(pool, study, grid)
    conditions["machine"] = {**_machine(), "workers": workers}
    conditions["versions"]["mergekit-pcb"] = mergekit_pcb.__version__
    table = write_report(out, conditions, models, merges)
    click.echo(f"\n{table}\n\nreport: {out}\nmodels and recipes: {study.folder}")


def _conditions(training: Training) -> dict[str, Any]:
    """What a fine-tune and a score depend on, and what the report says of it."""
    names = ("mergekit", "torch", "transformers", "tokenizers")
    return {
        "packages": [f"{p.tool} {p.name} {p.version} ({p.licence})" for p in PACKAGES],
        "versions": {name: importlib.metadata.version(name) for name in names},
        "training": asdict(training),
        "text_bytes": TEXT_BYTES,
    }


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _prepare(work: Path, conditions: dict[str, Any]) -> jobs.Study:
    """Fetch model and texts into a folder that belongs to the conditions."""
    fetched = work / "packages"
    seed = conditions["training"]["seed"]
    texts = {
        domain: split_documents(
            read_documents(domain, fetched), **TEXT_BYTES, seed=seed
        )
        for domain in DOMAINS
    }
    training = Training(**conditions["training"])
    study = jobs.Study(work / f"study-{_digest(conditions)}", training, texts)
    prepare_base(study.model("base"), fetched)
    # An interrupted run leaves the merges it was at, and may not come back for them.
    shutil.rmtree(study.folder / "merged", ignore_errors=True)
    return study


def _run(
    pool: ProcessPoolExecutor, study: jobs.Study, grid: Mapping[str, Setting]
) -> tuple[list[Run], list[Run]]:
    """Fine-tune, then score the models and all merges, in the order of the tables."""
    tuning = [
        pool.submit(jobs.fine_tune_domain, study, domain, bar)
        for bar, domain in enumerate(DOMAINS, start=1)
    ]
    base = pool.submit(jobs.score_model, study, "base")
    _wait([*tuning, base], "fine-tuning")
    scores = [pool.submit(jobs.score_model, study, domain) for domain in DOMAINS]
    merges = [
        pool.submit(jobs.score_merge, study, setting, key)
        for key, setting in grid.items()
    ]
    _wait([*scores, *merges], "merging and scoring")
    return [f.result() for f in (base, *scores)], [f.result() for f in merges]


def _wait(futures: Sequence[Future[Any]], what: str) -> None:
    for future in tqdm(as_completed(futures), what, len(futures), disable=None):
        future.result()


def _key(setting: Setting) -> str:
    """A file name that changes whenever the merge could come out differently."""
    parts: list[Any] = [asdict(setting)]
    if setting.method == "pcb":
        sources = sorted(Path(mergekit_pcb.__file__).parent.glob("*.py"))
        parts += [path.read_text(encoding="utf-8") for path in sources]
    name = re.sub(r"[^a-z0-9._]+", "-", f"{setting.family} {setting.label}")
    return f"{name}-{_digest(*parts)}"


@contextmanager
def _worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool whose workers end at once when the block fails or Ctrl-C comes."""
    context = multiprocessing.get_context("spawn")
    bar_lock = context.RLock()
    tqdm.set_lock(bar_lock)
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, context, jobs.start_worker, (threads, bar_lock))
    try:
        yield pool
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _machine() -> dict[str, Any]:
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")  # on Linux, platform.processor() is often empty
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        cpu = next(iter(names), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
