"""What a candidate of `mergekit-pcb search` costs, beside a merge of the same models.

    python -m experiments.benchmark_search
    python -m experiments.benchmark_search --layers 2 --hidden 256 --vocab 1000

Makes a Llama model of 540 million random weights and three fine-tunes in bfloat16, and
merges them by `mergekit-yaml`. Then another process makes candidates in memory, as a
search does, and measures how long the weights of each take to write: without loading,
without evaluation. The models are deleted afterwards.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import click

from experiments import merge_runs
from experiments.merge_runs import Usage

RESULTS = Path(__file__).parent / "results"
MOST = 0.02
"""Of a merge, for a candidate."""
_DENSITIES = (0.1, 0.2, 0.4, 0.7)
_COLUMNS = (
    "contributions of",
    "take",
    "on all cores",
    "on disk",
    "what changes",
    "candidate",
    "on all cores",
    "of a merge, on all cores",
    "of a merge",
    "without imports, on all cores",
)


@click.command()
@click.option("--layers", default=8, show_default=True)
@click.option("--hidden", default=2048, show_default=True)
@click.option("--vocab", default=32_000, show_default=True)
@click.option("--models", default=3, show_default=True, help="Fine-tunes.")
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Merges of each method; candidates of each setting are three times as many.",
)
@merge_runs.work_option
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RESULTS / "benchmark_search.md",
    help="Where to write the table; a JSON file goes beside it.",
)
@click.option("--measure", type=click.Path(path_type=Path), hidden=True)
def main(
    layers: int,
    hidden: int,
    vocab: int,
    models: int,
    repeat: int,
    work: Path | None,
    markdown: Path,
    measure: Path | None,
) -> None:
    """Compare the cost of a candidate with that of a merge."""
    if measure is not None:
        click.echo(json.dumps(candidates(measure, 3 * repeat)))
        return
    found = merge_runs.conditions()
    found["size"] = {"hidden": hidden, "vocab": vocab, "models": models}
    with tempfile.TemporaryDirectory(dir=work, prefix="search-") as name:
        folder = Path(name)
        click.echo("making models", err=True)
        merge_runs.make_models(folder, layers=layers, **found["size"])
        files = (folder / "base").glob("*.safetensors")
        found["parameters"] = sum(path.stat().st_size for path in files) // 2
        found["imports"] = merge_runs.imports()._asdict()
        found["merges"] = {}
        for _ in range(repeat):
            for method in ("pcb", "task_arithmetic"):
                usage = merge_runs.merge(folder, method, "200M")
                click.echo(f"{method}: {usage.seconds:.1f} s", err=True)
                found["merges"].setdefault(method, []).append(usage._asdict())
        click.echo("making candidates", err=True)
        code = [sys.executable, "-m", "experiments.benchmark_search"]
        code += [f"--repeat={repeat}", f"--measure={folder}"]
        run = subprocess.run(code, check=True, stdout=subprocess.PIPE, text=True)
        found |= json.loads(run.stdout.splitlines()[-1])
    lines = table(found)
    click.echo("\n".join(lines))
    merge_runs.record(markdown, lines, found)


def candidates(folder: Path, repeat: int) -> dict[str, Any]:
    """Times and sizes of candidates of every kind, of models in a folder.

    Beside them the time that it takes to write the base, which no candidate needs.
    """
    import yaml
    from mergekit.options import MergeOptions

    from mergekit_pcb.compare.loading import load_model
    from mergekit_pcb.search.bench import Bench
    from mergekit_pcb.search.planned import planned
    from mergekit_pcb.search.space import PCB, TASK_ARITHMETIC, Setting

    file = folder / "pcb.yml"
    recipe = yaml.safe_load(file.read_text())
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        settings = [Setting(PCB, density, "tensor") for density in _DENSITIES]
        settings.append(Setting(TASK_ARITHMETIC))
        bench = Bench(
            planned(str(file), recipe, MergeOptions(quiet=True)),
            lambda: load_model(folder / "base", "cpu"),
            Path(scratch),
            settings,
        )
        bench.base_model()
        models = len(recipe["models"])
        return {
            "base": [timed(bench.base_model) for _ in range(repeat)],
            "candidates": [
                of_setting(bench, setting, models if by_model else 0, repeat)
                for setting in settings
                for by_model in (False, True)
            ],
        }


def of_setting(bench: Any, setting: Any, weights: int, repeat: int) -> dict[str, Any]:
    """What the contributions of a setting cost, and then each candidate.

    Args:
        bench: makes them.
        setting: of which contributions.
        weights: how many weights each candidate has; 0 if only lambda differs.
        repeat: how many candidates.
    """
    from mergekit_pcb.search.space import Candidate

    def made() -> None:
        bench.contributions(setting, by_model=bool(weights))

    contributions = timed(made)
    (file,) = bench.scratch.glob("contributions*")
    runs = []
    for i in range(repeat + 1):
        factors = tuple(1 + 0.01 * (i + j) for j in range(weights))
        candidate = Candidate(setting, 1 + 0.01 * i, factors)
        runs.append(timed(lambda c=candidate: bench.model_of(c)))
    return {
        "setting": str(setting),
        "method": setting.method,
        "changes": "lambda and weights" if weights else "lambda",
        "contributions": contributions,
        "bytes": file.stat().st_size,
        # The first one after another setting also writes the base.
        "first": runs[0],
        "candidates": runs[1:],
    }


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Seconds, and seconds on all cores."""
    start, cpu = perf_counter(), process_time()
    work()
    return {"seconds": perf_counter() - start, "cpu_seconds": process_time() - cpu}


def table(found: dict[str, Any]) -> list[str]:
    """Rows of candidates: medians, and their shares of a merge."""
    merges = {
        method: Usage(
            *map(statistics.median, zip(*map(dict.values, runs), strict=True))
        )
        for method, runs in found["merges"].items()
    }
    imports = Usage(**found["imports"])
    lines = [
        f"Candidates of {found['size']['models']} fine-tunes of "
        f"{found['parameters'] / 1e6:.0f} million bfloat16 parameters; the model in "
        f"memory is float32. A merge by `mergekit-yaml`: "
        + "; ".join(
            f"`{method}` {run.seconds:.1f} s, {run.cpu_seconds:.1f} s on all cores"
            for method, run in merges.items()
        )
        + f"; of it {imports.seconds:.1f} s, {imports.cpu_seconds:.1f} s on all cores, "
        "are for imports. Medians.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    worst: dict[str, float] = {}
    for each in found["candidates"]:
        merge = merges[each["method"]]
        seconds, cpu = (
            statistics.median(run[key] for run in each["candidates"])
            for key in ("seconds", "cpu_seconds")
        )
        share = cpu / merge.cpu_seconds
        worst[each["changes"]] = max(worst.get(each["changes"], 0), share)
        cells = [
            each["setting"],
            f"{each['contributions']['seconds']:.1f} s",
            f"{each['contributions']['cpu_seconds']:.1f} s",
            f"{each['bytes'] / 1e6:.0f} MB",
            each["changes"],
            f"{seconds:.3f} s",
            f"{cpu:.3f} s",
            f"{100 * share:.1f} %",
            f"{100 * seconds / merge.seconds:.1f} %",
            f"{100 * cpu / (merge.cpu_seconds - imports.cpu_seconds):.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    verdicts = [
        f"{changes} {'yes' if share <= MOST else 'NO'} ({100 * share:.1f} %)"
        for changes, share in worst.items()
    ]
    base = statistics.median(run["cpu_seconds"] for run in found["base"])
    floor = 100 * base / merges["pcb"].cpu_seconds
    writing = f"To write the base into the model takes {base:.3f} s on all cores"
    lines += ["", f"{writing}, {floor:.1f} % of a merge by `pcb`."]
    least = f"At most {MOST:.0%} of a merge, on all cores: {', '.join(verdicts)}."
    return [*lines, "", least]


def _values(run: dict[str, float]) -> list[float]:
    return list(run.values())


if __name__ == "__main__":
    main()
