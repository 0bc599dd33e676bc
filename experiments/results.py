"""Tables and pictures of everything in experiments/results, as Markdown.

    python -m experiments.results [--out docs/results-tables.md --pictures FOLDER]

No number is typed by hand: what is printed comes from the committed JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import click

from experiments import (
    at_a_glance,
    auto_lambda,
    fine_tune,
    label_free_table,
    language_search,
    sampled_projection,
    targets,
)
from experiments.cases import load
from experiments.result_pictures import (
    sensitivity_picture,
    sizes_picture,
    target_picture,
)
from experiments.summary import (
    Line,
    Measured,
    best_peer,
    failures,
    groups,
    mean_curve,
    summarise,
)
from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.compare.evaluation import standard_error
from mergekit_pcb.compare.scoreboard import MERGE

RESULTS = Path(__file__).parent / "results"
HOW = {False: "nobody tuned", True: "everybody tuned on validation items"}
COMPARISONS = ("cross-task", "cross-training", "out-of-domain")


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--out", type=click.Path(path_type=Path), help="[default: print it]")
@click.option("--pictures", type=click.Path(path_type=Path), help="Folder for PNGs.")
def main(results: Path, out: Path | None, pictures: Path | None) -> None:
    """Render what has been measured."""
    text = "\n".join(render(results)) + "\n"
    if out:
        write_file(out, text)
    else:
        click.echo(text, nl=False)
    if pictures:
        for name, picture in drawn(results):
            write_file(pictures / f"{name}.png", picture)
            click.echo(f"wrote {pictures / name}.png", err=True)


_HEAD = """\
# All tables

Made by `python -m experiments.results --out docs/results-tables.md` of the files in
`experiments/results`; what they mean stands in [results](results.md). Means over the
tasks, then over three seeds of fine-tunes; ± is the standard error over the seeds.
Models are nested: the first two, three and so on of the tasks. Accuracy in percent,
or bits per byte (language), on test items.

Fine-tunes were made on an H200, or, where it says so, on a CPU, with the same seeds:
they are as good, and not the same.
"""

_OLDER = """\
Where there are not three models, `pcb` and `pcb:model` were measured with p = 0.7 here;
the default is 0.7 sqrt(3 / n) since.
"""


def render(folder: Path) -> Iterator[str]:
    """Lines of Markdown: a section for each file, in the order of their names."""
    yield _HEAD
    for where, files in _files(folder):
        for tuned in (False, True):
            if lines := list(at_a_glance.table(files, tuned=tuned)):
                yield f"## Three models, {HOW[tuned]}{where}"
                yield ""
                yield from lines
                yield ""
    for where, files in _files(folder):
        for file in files:
            suite, table = _parts(file)
            if table == "cross-task" and len(groups(load(file), tuned=False)) > 1:
                yield f"## {suite}: numbers of models, nobody tuned{where}"
                yield ""
                yield from at_a_glance.by_size(file, suite)
                yield ""
                if not where:
                    yield _OLDER
            if table is not None:
                yield f"## {suite}: {table}{where}"
                yield ""
                yield from _section(table, load(file), is_higher_better(suite))
                yield ""
    yield "## Rules for p"
    yield ""
    yield from targets.table(folder)


def _files(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """What was measured on fine-tunes made on a GPU, and then on a processor."""
    yield "", sorted(folder.glob("*.json"))
    yield ", fine-tunes made on a CPU", sorted((folder / "cpu").glob("*.json"))


def _section(table: str, measured: Measured, higher: bool) -> Iterator[str]:
    if table in COMPARISONS:
        return _comparisons(measured, higher=higher)
    if table == "ablation":
        return _ablation(measured, higher=higher)
    if table == "auto-lambda":
        return auto_lambda.table(measured, higher)
    return {
        "experts": fine_tune.table,
        "sensitivity": _sensitivity,
        "control": _control,
        "label-free": label_free_table.table,
        "search": language_search.table,
        "sampled-projection": sampled_projection.table,
    }[table](measured)


def drawn(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Pictures by name."""
    for file in (file for _, files in _files(folder) for file in files):
        suite, table = _parts(file)
        higher = is_higher_better(suite)
        if table == "sensitivity":
            yield file.stem, sensitivity_picture(load(file), suite, higher=higher)
        if table == "auto-lambda":
            yield file.stem, target_picture(load(file), suite, higher=higher)
        if table == "cross-task" and len(groups(load(file), tuned=False)) > 1:
            yield file.stem, sizes_picture(load(file), suite, higher=higher)


def is_higher_better(suite: str) -> bool:
    """Accuracy, unless texts are scored in bits."""
    return not suite.startswith("language")


_NAME = re.compile(
    r"(auto-lambda|sampled-projection)-(.+)|([a-z0-9]+(?:-ia3|-lora)?)-(.+)"
)
_TABLES = (
    *COMPARISONS,
    "experts",
    "ablation",
    "sensitivity",
    "control",
    "label-free",
    "search",
)


def _parts(file: Path) -> tuple[str, str | None]:
    found = _NAME.fullmatch(file.stem)
    if found and found[1]:
        return found[2], found[1]
    if found and found[4] in _TABLES:
        return found[3], found[4]
    return file.stem, None


def _comparisons(measured: Measured, *, higher: bool) -> Iterator[str]:
    digits = 2 if higher else 4
    for tuned in (False, True):
        for name, group in groups(measured, tuned=tuned).items():
            lines = summarise(group, higher_is_better=higher)
            yield f"### {name}, {HOW[tuned]} ({len(group)} comparisons)"
            yield ""
            yield "| model | mean | ± | to pcb | ± | settings |"
            yield "| --- | --- | --- | --- | --- | --- |"
            best = next((line for line in lines if line.kind == MERGE), None)
            for line in lines:
                yield _row(line, digits, bold=line is best)
            for row, reason in failures(group).items():
                yield f"| {row} | failed | | | | {reason} |"
            yield ""
            peer = best_peer(lines)
            ours = next((line for line in lines if line.name == "pcb"), None)
            if peer and ours and peer.gap is not None:
                sign = 1 if higher else -1
                ahead = "ahead of" if sign * peer.gap < 0 else "behind"
                gap = f"{abs(peer.gap):.{digits}f}"
                if peer.gap_error is not None:
                    gap += f" ± {peer.gap_error:.{digits}f}"
                yield f"pcb is {gap} {ahead} the best peer here, {peer.name}."
                yield ""


def _row(line: Line, digits: int, *, bold: bool) -> str:
    def number(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{value:{sign}.{digits}f}"

    mean = f"**{number(line.mean)}**" if bold else number(line.mean)
    cells = [line.name, mean, number(line.error), number(line.gap, "+")]
    cells += [number(line.gap_error), "; ".join(dict.fromkeys(line.settings))]
    return f"| {' | '.join(cells)} |"


def _ablation(measured: Measured, *, higher: bool) -> Iterator[str]:
    digits = 2 if higher else 4
    for group in dict.fromkeys(case["group"] for case, _ in measured):
        scores: dict[str, dict[int, float]] = {}
        for case, found in measured:
            if case["group"] == group:
                mean = fmean(found["values"].values())
                scores.setdefault(case["variant"], {})[case["seed"]] = mean
        yield f"### {group}"
        yield ""
        yield "| variant | mean | to pcb | ± |"
        yield "| --- | --- | --- | --- |"
        for variant, of_seed in scores.items():
            gaps = [of_seed[seed] - scores["pcb"][seed] for seed in of_seed]
            error = standard_error(gaps)
            cells = [
                variant,
                f"{fmean(of_seed.values()):.{digits}f}",
                f"{fmean(gaps):+.{digits}f}",
                "" if error is None else f"{error:.{digits}f}",
            ]
            yield f"| {' | '.join(cells)} |"
        yield ""


def _sensitivity(measured: Measured) -> Iterator[str]:
    yield "| method | density | auto: lambda, score | best lambda, score | at 1 |"
    yield "| --- | --- | --- | --- | --- |"
    for method, density in dict.fromkeys(
        (case["method"], case["density"]) for case, _ in measured
    ):
        some = [
            found
            for case, found in measured
            if (case["method"], case["density"]) == (method, density)
        ]
        curve = mean_curve([found["scores"] for found in some])
        lambdas = some[0]["lambda"]
        best = max(range(len(curve)), key=lambda i: curve[i] * _sign(measured))
        auto = [found["auto"] for found in some if "auto" in found]
        at = f"{fmean(a['lambda'] for a in auto):.2f}, " if auto else ""
        score = f"{fmean(a['score'] for a in auto):.3f}" if auto else ""
        yield (
            f"| {method} | {density:g} | {at}{score} | {lambdas[best]:g}, "
            f"{curve[best]:.3f} | {curve[lambdas.index(1.0)]:.3f} |"
        )


def _sign(measured: Measured) -> int:
    return 1 if is_higher_better(measured[0][0]["suite"]) else -1


def _control(measured: Measured) -> Iterator[str]:
    yield (
        "| copy | inter, clamp, density, lambda | published | pcb:model | items scored "
        "alike | relative distance |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    for copy in dict.fromkeys(case["copy"] for case, _ in measured):
        some = [(case, found) for case, found in measured if case["copy"] == copy]
        case = some[0][0]
        means = [
            fmean(fmean(found["values"][name].values()) for _, found in some)
            for name in ("published", "pcb:model")
        ]
        alike = fmean(found["items scored alike"] for _, found in some)
        apart = max(found["relative distance"] for _, found in some)
        settings = ", ".join(
            str(case[key]) for key in ("inter", "clamp", "density", "lambda")
        )
        yield (
            f"| {copy} | {settings} | {means[0]:.3f} | {means[1]:.3f} | "
            f"{100 * alike:.2f} % | {apart:.1e} |"
        )


if __name__ == "__main__":
    main()
