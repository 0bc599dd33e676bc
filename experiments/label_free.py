"""What a search without labels chooses, and what that loses against labels.

    python -m experiments.label_free text --seeds 0,1,2 --work FOLDER

Candidates are those of `mergekit-pcb search`, and as many of each of its peers. Each is
merged in memory and scored by its agreement with the experts on some validation inputs
without their labels, and by the labels of all validation items. Test items choose
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from experiments.cases import Case, Found, measure_all, models_of
from experiments.label_free_candidates import PEERS, Candidate, candidates
from experiments.label_free_scores import Scorer
from experiments.label_free_table import table
from experiments.label_free_weights import searched_weights
from experiments.suites.registry import SUITES, open_suite
from experiments.suites.suite import Place
from mergekit_pcb.compare.evaluation import TEST, VALIDATION

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("name", metavar="SUITE", type=click.Choice(list(SUITES)))
@click.option("--seeds", default="0,1,2", show_default=True, help="Of fine-tunes.")
@click.option("--sizes", default="3", show_default=True, help="How many models.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--jobs", default=1, show_default=True, help="Processes at a time.")
def main(
    name: str,
    seeds: str,
    sizes: str,
    work: Path,
    device: str,
    results: Path,
    jobs: int,
) -> None:
    """Score the candidates of a search with and without labels."""
    torch.set_num_threads(1)
    place = Place(work.absolute(), device)
    suite = open_suite(name, place)
    cases = [
        {
            "suite": name,
            "group": f"{size} models",
            "seed": int(seed),
            "tasks": list(suite.tasks[: int(size)]),
        }
        for size in sizes.split(",")
        for seed in seeds.split(",")
    ]
    file = results / f"{name}-label-free.json"
    for line in table(measure_all(cases, measure, place, jobs, file)):
        click.echo(line)


def measure(case: Case, place: Place) -> Found:
    """Scores of all candidates, and of weights that were searched with each score."""
    suite, base, models = models_of(case, place)
    scorer = Scorer(suite, case["tasks"], models)
    rows: list[dict[str, Any]] = []
    best: dict[str, tuple[dict[str, Any], Candidate]] = {}
    for candidate in candidates(base, models):
        state = candidate.merge()
        row = {"from": candidate.source, "candidate": candidate.name, **scorer(state)}
        rows.append(row)
        if candidate.source not in PEERS:
            # Any of them may be some draw's choice.
            row[TEST] = scorer.shown(state)
        elif (
            candidate.source not in best
            or row[VALIDATION] > best[candidate.source][0][VALIDATION]
        ):
            best[candidate.source] = row, candidate
    for row, candidate in best.values():
        row[TEST] = scorer.shown(candidate.merge())
    return {"rows": rows, "weights": searched_weights(base, models, scorer)}


if __name__ == "__main__":
    main()
