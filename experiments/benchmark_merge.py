"""What whole merges cost: time and peak memory of `mergekit-yaml`, method by method.

    python -m experiments.benchmark_merge
    python -m experiments.benchmark_merge --layout small
    python -m experiments.benchmark_merge --layout huge --methods linear,pcb
    python -m experiments.benchmark_merge --models 2,4,8,16 --methods linear,pcb
    python -m experiments.benchmark_merge --depths 4,16,64

The first makes a Llama model of 540 million random weights and three fine-tunes, merges
them with every method in turns, and compares medians. `small` is a model of 2,000 small
tensors; `huge` one of two tensors of half a billion, or of `--vocab` times `--hidden`.
The last merges models of equal layers, few and many, with `scope: tensor` and
`scope: model`, and compares peaks. The models are deleted afterwards.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from experiments import computed_times, merge_runs
from experiments.merge_runs import METHODS, Usage

RESULTS = Path(__file__).parent / "results"
# Of scope: model, over scope: tensor.
MOST_MEMORY = 1.25
METHODS_SHOWN = "linear,task_arithmetic,ties,dare_ties,pcb,pcb-0.1,pcb-model,pcb-plain"


class Layout(NamedTuple):
    """The size of a model, and of what mergekit keeps of it until it is written."""

    layers: int
    hidden: int
    vocab: int
    out_shard_size: str


LAYOUTS = {
    "even": Layout(8, 2048, 32_000, "200M"),
    "small": Layout(222, 32, 1_000, "20M"),
    "huge": Layout(1, 1024, 500_000, "200M"),
}
OF_DEPTHS = Layout(8, 512, 8_000, "20M")


def _listed(kind: type) -> Any:
    def parse(context: Any, option: Any, value: str | None) -> list[Any]:
        return [kind(item) for item in (value or "").split(",") if item]

    return parse


@click.command()
@click.option(
    "--layout",
    type=click.Choice(list(LAYOUTS)),
    default="even",
    show_default=True,
    help="The kind of model; its numbers can be changed by the next three options.",
)
@click.option("--layers", type=int, help="[default: 8; of small 222; of huge 1]")
@click.option("--hidden", type=int, help="[default: 2048; 32; 1024]")
@click.option("--vocab", type=int, help="[default: 32000; 1000; 500000]")
@click.option(
    "--models",
    default="3",
    show_default=True,
    callback=_listed(int),
    help="Fine-tunes to merge, a table for each number.",
)
@click.option(
    "--methods", default=METHODS_SHOWN, show_default=True, callback=_listed(str)
)
@click.option(
    "--depths",
    callback=_listed(int),
    help="Numbers of layers: compare the memory of both scopes instead.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs of each method.",
)
@click.option(
    "--out-shard-size",
    help="mergekit keeps a shard in memory until it is full.  [default: 200M; of "
    "small and of depths 20M]",
)
@merge_runs.work_option
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the table; a JSON file goes beside it.",
)
def main(
    layout: str,
    layers: int | None,
    hidden: int | None,
    vocab: int | None,
    models: list[int],
    methods: list[str],
    depths: list[int],
    repeat: int,
    out_shard_size: str | None,
    work: Path | None,
    markdown: Path | None,
) -> None:
    """Compare time and peak memory of whole merges."""
    unknown = set(methods) - set(METHODS)
    if unknown:
        known = ", ".join(METHODS)
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; known are {known}")
    if not models or min(models) < 1:
        raise click.BadParameter("--models: numbers above 0, such as 2,4,8")
    if depths:
        methods = ["pcb", "pcb-model"]
    usual = OF_DEPTHS if depths else LAYOUTS[layout]
    size = {
        "hidden": hidden or usual.hidden,
        "vocab": vocab or usual.vocab,
        "models": max(models),
    }
    shard_size = out_shard_size or usual.out_shard_size
    found = merge_runs.conditions()
    found["size"] = size | {"out shard": shard_size}
    found["runs"] = {"imports": [merge_runs.imports() for _ in range(3)]}
    for depth in depths or [layers or usual.layers]:
        with tempfile.TemporaryDirectory(dir=work, prefix="merge-") as folder:
            click.echo(f"making models of {depth} layers", err=True)
            merge_runs.make_models(Path(folder), layers=depth, **size)
            parameters = count(Path(folder) / "base")
            for number in models:
                runs = in_turns(Path(folder), methods, repeat, shard_size, number)
                for method, usages in runs:
                    name = f"{method}, {depth} layers" if depths else method
                    if len(models) > 1:
                        name = f"{name}, {number} models"
                    found["runs"].setdefault(name, []).append(usages)
            if layout == "even" and not depths:
                found["disk"] = computed_times.disk_speed(Path(folder))
        found.setdefault("parameters", {})[depth] = parameters
    lines = depth_table(found, depths) if depths else tables(found, models)
    click.echo("\n".join(lines))
    kind = "depth" if depths else "merge" if layout == "even" else layout
    kind += "_models" if len(models) > 1 else ""
    runs = {k: [run._asdict() for run in v] for k, v in found["runs"].items()}
    file = markdown or RESULTS / f"benchmark_{kind}.md"
    merge_runs.record(file, lines, found | {"runs": runs})


def count(model: Path) -> int:
    """Parameters of a model in bfloat16."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors")) // 2


def in_turns(
    models: Path, methods: Sequence[str], repeat: int, shard_size: str, number: int
) -> Iterator[tuple[str, Usage]]:
    """Runs of all methods, so that what disturbs the machine disturbs each."""
    for turn in range(repeat):
        for method in methods:
            usage = merge_runs.merge(models, method, shard_size, number)
            click.echo(
                f"{turn + 1}/{repeat} {method}: {usage.seconds:.1f} s, "
                f"{usage.cpu_seconds:.1f} s on all cores, {usage.peak_mb:.0f} MB",
                err=True,
            )
            yield method, usage


def median(runs: Sequence[Usage]) -> Usage:
    """Median of each figure."""
    return Usage(*map(statistics.median, zip(*runs, strict=True)))


def tables(found: dict[str, Any], models: Sequence[int]) -> list[str]:
    """A table for each number of models; for one, what larger models would take."""
    if len(models) > 1:
        parts = []
        for number in models:
            end = f", {number} models"
            runs = {
                name.removesuffix(end): usages
                for name, usages in found["runs"].items()
                if name == "imports" or name.endswith(end)
            }
            size = found["size"] | {"models": number}
            parts += [*table(found | {"runs": runs, "size": size}), ""]
        return parts[:-1]
    lines = table(found)
    if "disk" in found:
        runs = {name: median(usages) for name, usages in found["runs"].items()}
        (parameters,) = found["parameters"].values()
        lines += ["", *computed_times.lines(runs, parameters, *models, found["disk"])]
    return lines


def table(found: dict[str, Any]) -> list[str]:
    """Rows of methods: medians, and their ratios to two methods."""
    runs = {name: median(usages) for name, usages in found["runs"].items()}
    imports = runs.pop("imports")
    (parameters,) = found["parameters"].values()
    size = found["size"]
    peers = [name for name in ("linear", "ties") if name in runs]
    repeat = len(next(usages for name, usages in found["runs"].items() if name in runs))
    heading = (
        f"Merges of {size['models']} fine-tunes of {parameters / 1e6:.0f} million "
        f"bfloat16 parameters; medians of {repeat} runs, in turns. Of each run, "
        f"{imports.seconds:.1f} s, {imports.cpu_seconds:.1f} s of all cores and "
        f"{imports.peak_mb:.0f} MB are for imports."
    )
    ratios = "".join(f" times `{peer}` |" for peer in peers)
    lines = [
        heading,
        "",
        f"| method | time | from - to |{ratios} on all cores |{ratios} peak memory |",
        "| --- | ---: | ---: |" + " ---: |" * (2 * len(peers) + 2),
    ]
    for name, usage in runs.items():
        seconds = [run.seconds for run in found["runs"][name]]
        cells = [
            f"`{name}`",
            f"{usage.seconds:.1f} s",
            f"{min(seconds):.1f} - {max(seconds):.1f} s",
            *(f"{usage.seconds / runs[peer].seconds:.2f}" for peer in peers),
            f"{usage.cpu_seconds:.1f} s",
            *(f"{usage.cpu_seconds / runs[peer].cpu_seconds:.2f}" for peer in peers),
            f"{usage.peak_mb:.0f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def depth_table(found: dict[str, Any], depths: Sequence[int]) -> list[str]:
    """Rows of depths: the peaks of both scopes, and their ratio."""
    imports = found["runs"]["imports"][0]
    heading = (
        "Peak resident memory of `pcb` merges of models of equal layers; "
        f"{imports.peak_mb:.0f} MB of it are for imports."
    )
    lines = [
        heading,
        "",
        "| layers | parameters | `scope: tensor` | `scope: model` | ratio |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    worst = 0.0
    for depth in depths:
        peaks = [
            median(found["runs"][f"{method}, {depth} layers"]).peak_mb
            for method in ("pcb", "pcb-model")
        ]
        ratio = peaks[1] / peaks[0]
        worst = max(worst, ratio)
        lines.append(
            f"| {depth} | {found['parameters'][depth] / 1e6:.0f} M | "
            f"{peaks[0]:.0f} MB | {peaks[1]:.0f} MB | {ratio:.2f} |"
        )
    verdict = "yes" if worst <= MOST_MEMORY else "NO"
    return [*lines, "", f"At most {MOST_MEMORY} times as much: {verdict}."]


if __name__ == "__main__":
    main()
