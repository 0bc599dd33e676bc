"""What a search without labels chooses, and what that loses against labels.

    python -m experiments.label_free text --seeds 0,1,2 --work FOLDER

Candidates are those of `mergekit-pcb search`, and as many of the peers as `compare
--sweep auto` tries. Each is merged in memory and scored: by its agreement with the
experts on some validation inputs without their labels, by the labels of all validation
items, and on test items, which choose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
from mergekit.merge_methods import merge_tensors

from experiments.cases import Case, Found, measure_all, models_of
from experiments.in_memory import (
    added,
    auto_scale,
    merged_task_vector,
    projections,
    task_vectors,
)
from experiments.label_free_table import COUNTS, PEERS, UNTUNED, table
from experiments.suites.registry import SUITES, open_suite
from experiments.suites.suite import Place, State, percent_right
from mergekit_pcb.compare.evaluation import TEST, VALIDATION, Score, standard_error
from mergekit_pcb.compare.grids import GRIDS
from mergekit_pcb.kernel.projection import scale_for
from mergekit_pcb.plugin.parameters import DEFAULT_DENSITY
from mergekit_pcb.search.space import LAMBDA_FACTORS, TASK_ARITHMETIC, settings
from mergekit_pcb.search.weights import Budget, tune

RESULTS = Path(__file__).parent / "results"
# Evaluations for the weights.
EVALUATIONS, INPUTS = 60, 32


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
    scorer = _Scorer(suite, case["tasks"], models)
    rows = []
    for name, state in _candidates(base, models):
        rows.append({"candidate": name, **scorer(state)})
    return {"rows": rows, "weights": _weights(base, models, scorer)}


class _Scorer:
    """Scores weights in memory, by what the experts say of the validation inputs.

    Attributes:
        tasks: in the order of the experts.
    """

    def __init__(self, suite: Any, tasks: Sequence[str], models: Sequence[State]):
        self.suite, self.tasks = suite, tasks
        self._expected = {
            task: suite.logits(model, task, VALIDATION)[: COUNTS[-1]].log_softmax(1)
            for task, model in zip(tasks, models, strict=True)
        }

    def __call__(self, state: State) -> dict[str, Any]:
        """Mean over tasks of each score; agreement once for each draw of inputs."""
        agreement: dict[str, list[float]] = {}
        divergences, right = [], {VALIDATION: [], TEST: []}
        for task in self.tasks:
            for part, means in right.items():
                logits = self.suite.logits(state, task, part)
                means.append(fmean(self._percent(task, part, logits)))
                if part == VALIDATION:
                    divergences.append(self._divergence(task, logits))
        for count in COUNTS:
            agreement[str(count)] = [
                round(fmean(fmean(each[i : i + count]) for each in divergences), 6)
                for i in range(0, COUNTS[-1], count)
            ]
        means = {part: round(fmean(values), 4) for part, values in right.items()}
        return {"agreement": agreement, **means}

    def by_agreement(self, state: State) -> dict[str, Score]:
        """Bits from each expert, over the first `INPUTS` inputs."""
        found = {}
        for task in self.tasks:
            logits = self.suite.logits(state, task, VALIDATION)
            items = self._divergence(task, logits)[:INPUTS]
            error = standard_error(items)
            found[task] = Score(fmean(items), "bits", False, error, items)
        return found

    def by_labels(self, state: State) -> dict[str, Score]:
        """Percent right, over all validation items."""
        found = {}
        for task in self.tasks:
            items = self.suite.scores(state, task, VALIDATION)
            error = standard_error(items)
            found[task] = Score(fmean(items), "accuracy", True, error, items)
        return found

    def shown(self, state: State) -> float:
        """Percent right of the test items."""
        return fmean(fmean(self.suite.scores(state, t, TEST)) for t in self.tasks)

    def _percent(self, task: str, part: str, logits: torch.Tensor) -> list[float]:
        return percent_right(logits, self.suite.labels(task, part))

    def _divergence(self, task: str, logits: torch.Tensor) -> list[float]:
        expected = self._expected[task]
        own = logits[: len(expected)].log_softmax(1)
        bits = (expected.exp() * (expected - own)).sum(1) / math.log(2)
        return [float(value) for value in bits]


def _candidates(base: State, models: Sequence[State]) -> Iterator[tuple[str, State]]:
    tau = task_vectors(base, models)
    untuned = merged_task_vector(tau, DEFAULT_DENSITY)
    yield UNTUNED, added(base, untuned, auto_scale(untuned, tau))
    for setting in settings():
        merged = _merged(tau, setting)
        automatic = scale_for(projections(merged, tau).one, len(models))
        for factor in LAMBDA_FACTORS:
            scale = dict.fromkeys(merged, automatic * factor)
            yield f"{setting}, lambda x {factor:g}", added(base, merged, scale)
    for method, fixed in PEERS.items():
        grid = GRIDS[method]
        for values in product(*grid.values()):
            swept = dict(zip(grid, values, strict=True))
            torch.manual_seed(0)
            state = {
                name: merge_tensors(
                    [tensor, *(model[name] for model in models)],
                    method,
                    parameters={**fixed, **swept},
                    base_index=0,
                )
                for name, tensor in base.items()
            }
            label = ", ".join(f"{key} {value:g}" for key, value in swept.items())
            yield f"{method}, {label}", state


def _merged(tau: Mapping[str, Sequence[torch.Tensor]], setting: Any) -> State:
    if setting.method == TASK_ARITHMETIC:
        return {name: torch.stack(list(each)).sum(0) for name, each in tau.items()}
    return merged_task_vector(tau, setting.density, scope=setting.scope)


def _weights(
    base: State, models: Sequence[State], scorer: _Scorer
) -> dict[str, dict[str, Any]]:
    """Test scores before and after a search for weights by each score.

    It starts from pcb without parameters, and multiplies its weights.
    """
    tau = task_vectors(base, models)
    count = len(models)
    parts = [
        merged_task_vector(
            tau, DEFAULT_DENSITY, weight=[float(i == j) for j in range(count)]
        )
        for i in range(count)
    ]
    whole = {name: sum(part[name] for part in parts) for name in base}
    scale = auto_scale(whole, tau)

    def state(factors: Sequence[float]) -> State:
        merged = {
            name: sum(f * part[name] for f, part in zip(factors, parts, strict=True))
            for name in base
        }
        return added(base, merged, scale)

    found = {}
    equal = [1.0] * count
    before = round(scorer.shown(state(equal)), 4)
    for name, score in (
        ("agreement", scorer.by_agreement),
        ("labels", scorer.by_labels),
    ):
        start = score(state(equal))
        tried = {tuple(equal): _loss(start)}

        def losses(
            generation: Sequence[tuple[float, ...]],
            score: Any = score,
            tried: Any = tried,
        ) -> list[float]:
            found = [_loss(score(state(factors))) for factors in generation]
            tried.update(zip(generation, found, strict=True))
            return found

        tune(losses, count, Budget(EVALUATIONS), start)
        best = min(tried, key=lambda factors: tried[factors])
        found[name] = {
            "weights": list(best),
            "before": before,
            "after": round(scorer.shown(state(best)), 4),
        }
    return found


def _loss(scores: Mapping[str, Score]) -> float:
    sign = -1 if next(iter(scores.values())).higher_is_better else 1
    return sign * fmean(score.value for score in scores.values())


if __name__ == "__main__":
    main()
