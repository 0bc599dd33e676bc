"""What `mergekit-pcb search` finds for language models, without inputs and by labels.

    python -m experiments.language_search --seeds 0,1,2 --work FOLDER

Runs the commands that a user would: for each seed of fine-tunes a search that is given
nothing, the same by bits per byte of validation texts, and comparisons on test texts of
what the first found, of untuned merges, and of peers tuned on validation texts. An
interrupted run is resumed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import yaml
from scipy.stats import spearmanr

from experiments.bits_per_byte import TASKS
from experiments.cases import Case, Found, measure_all, opened
from experiments.suites.suite import Place, fine_tuned
from experiments.summary import Measured
from mergekit_pcb.compare.evaluation import standard_error

RESULTS = Path(__file__).parent / "results"
UNTUNED = ("pcb", "task_arithmetic")
PEERS = ("ties", "dare_ties")
_LABELS = ("--evaluate", "experiments.bits_per_byte:language")


@click.command()
@click.option("--seeds", default="0,1,2", show_default=True, help="Of fine-tunes.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
def main(seeds: str, work: Path, results: Path) -> None:
    """Search with and without labels, and compare on test texts."""
    cases = [
        {
            "suite": "language",
            "group": f"{len(TASKS)} models",
            "seed": int(seed),
            "tasks": list(TASKS),
        }
        for seed in seeds.split(",")
    ]
    file = results / "language-search.json"
    found = measure_all(cases, measure, Place(work.absolute()), 1, file)
    click.echo("\n".join(table(found)))


def measure(case: Case, place: Place) -> Found:
    """Test scores of what each way chooses, in bits per byte.

    Returns:
        ``rows``: for each the name, how it was chosen, the settings, and the mean over
        tasks. ``rank correlation``: between the candidates' agreement with the experts
        and their bits per byte on validation texts.
    """
    folder = place.work / "searches" / f"language-seed{case['seed']}"
    _write_recipe(folder / "recipe.yml", case, place)
    _run(place, folder, "search", "without-labels")
    _run(place, folder, "search", "by-labels", *_LABELS)
    found = ["--recipe", "without-labels/best.yml", "--methods", ",".join(UNTUNED)]
    _run(place, folder, "compare", "untuned", *found, *_LABELS)
    tuned = ["--sweep", "auto", "--methods", ",".join(PEERS)]
    _run(place, folder, "compare", "peers", *tuned, *_LABELS)
    return {
        "rows": [*_rows(folder)],
        "rank correlation": _rank_correlation(folder),
    }


def table(measured: Measured) -> Iterator[str]:
    """A line for each way to choose, means over the seeds."""
    boards = [
        {(row["from"], row["by"]): row for row in found["rows"]}
        for _, found in measured
    ]
    yield "| chosen from | by | test | ± | above labels | ± | chosen with each seed |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    for key in boards[0]:
        values = [rows[key]["test"] for rows in boards]
        gaps = [rows[key]["test"] - rows["search", "labels"]["test"] for rows in boards]
        cells = [*key]
        for numbers, sign in ((values, ""), (gaps, "+")):
            error = standard_error(numbers)
            cells.append(f"{fmean(numbers):{sign}.4f}")
            cells.append("" if error is None else f"{error:.4f}")
        settings = [rows[key]["settings"] for rows in boards]
        cells.append("; ".join(filter(None, settings)))
        yield f"| {' | '.join(cells)} |"
    ranks = ", ".join(f"{found['rank correlation']:.2f}" for _, found in measured)
    yield ""
    yield f"Rank correlation of agreement with bits per byte, each seed: {ranks}."


def _write_recipe(file: Path, case: Case, place: Place) -> None:
    suite = opened("language", place)
    models = [fine_tuned(suite, place, t, case["seed"]) for t in case["tasks"]]
    recipe = {
        "merge_method": "pcb",
        "base_model": str(suite.prepare()),
        "models": [{"model": str(model)} for model in models],
        "dtype": "float32",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def _run(place: Place, folder: Path, command: str, out: str, *options: str) -> None:
    """Run a command of ours on the recipe, with the suite's scores at hand."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "SUITES": str(place.work),
    }
    tool = Path(sys.executable).with_name("mergekit-pcb")
    code = [str(tool), command, "recipe.yml", "--out", out, *options, "--quiet"]
    click.echo(f"{folder.name}: {' '.join(code[1:])}", err=True)
    subprocess.run(code, check=True, cwd=folder, env=environment, stdout=sys.stderr)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """What was chosen, and its mean on test texts."""
    untuned = _merges(folder / "untuned")
    by_name = {row["name"]: row for row in untuned}
    for method in UNTUNED:
        yield _row(method, "nothing (untuned)", by_name[method])
    yield _row("search", "agreement, no inputs", by_name["best"])
    found = _json(folder / "by-labels" / "search.json")
    # The last one is what was found; no weights were tuned.
    best = found["shown"]["rows"][-1]
    assert found["shown"]["items"] == "test", "as it was asked"
    yield {
        "from": "search",
        "by": "labels",
        "settings": best["candidate"],
        "test": round(best["loss"], 6),
    }
    for row in _merges(folder / "peers"):
        yield _row(f"{row['name']}, 6 tries", "labels", row)


def _row(source: str, by: str, row: Mapping[str, Any]) -> dict[str, Any]:
    settings = "" if by.startswith("nothing") else row["label"]
    return {
        "from": source,
        "by": by,
        "settings": settings,
        "test": round(row["mean"], 6),
    }


def _merges(folder: Path) -> Sequence[Mapping[str, Any]]:
    rows = _json(folder / "comparison.json")["rows"]
    return sorted((r for r in rows if r["kind"] == "merge"), key=lambda r: r["name"])


def _rank_correlation(folder: Path) -> float:
    """Of the losses of the candidates that both searches tried."""
    bits, labels = (
        {row["candidate"]: row["loss"] for row in _json(folder / each)["tried"]}
        for each in ("without-labels/search.json", "by-labels/search.json")
    )
    both = sorted(bits.keys() & labels.keys())
    ranks = spearmanr([bits[key] for key in both], [labels[key] for key in both])
    return round(float(ranks.statistic), 4)


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
