"""One weight for each model by an evolution strategy (the library `cma`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_pcb.compare.evaluation import Scores
from mergekit_pcb.errors import PCBError
from mergekit_pcb.search.space import rounded

# Of the first population, as a share of the start.
_SPREAD = 0.3


@dataclass(frozen=True)
class Budget:
    """How weights are tuned.

    Attributes:
        evaluations: how many at most.
        low, high: bounds of the factors on the recipe's weights.
        seed: of the strategy.
    """

    evaluations: int
    low: float = 0.5
    high: float = 3.0
    seed: int = 0

    def check(self, models: int) -> None:
        """Refuse what the strategy cannot begin with.

        Raises:
            PCBError: `cma` is missing, the bounds exclude the start, or the budget
                does not suffice for a population.
        """
        _cma()
        given = f"--bounds {self.low:g} {self.high:g}"
        if not 0 <= self.low < self.high < math.inf:
            raise PCBError(f"{given}: give two numbers from 0, the lower one first")
        if not self.low < 1 < self.high:
            raise PCBError(
                f"{given} exclude the start: they are factors on the weights of the "
                "recipe, so the first must be below 1 and the second above"
            )
        if self.evaluations < population(models):
            raise PCBError(
                f"--budget {self.evaluations} is less than one population of "
                f"{population(models)}: give more, or 0 to leave the weights"
            )


def population(models: int) -> int:
    """Candidates of a generation, as `cma` chooses them."""
    return 4 + int(3 * math.log(models))


def tune(
    score: Callable[[Sequence[tuple[float, ...]]], Sequence[float]],
    models: int,
    budget: Budget,
    start: Scores,
) -> str:
    """Let the strategy propose weights until the budget is spent or nothing moves.

    Args:
        score: the losses of a generation, each with its factors on the weights;
            infinite for what failed.
        models: how many.
        budget: how.
        start: scores with the recipe's weights; their errors are the noise.

    Returns:
        A sentence about how it went.
    """
    settings = {
        "bounds": [budget.low, budget.high],
        # 0 would mean the time of day.
        "seed": budget.seed + 1,
        "maxfevals": budget.evaluations,
        "popsize": population(models),
        "verbose": -9,
    }
    strategy = _cma().CMAEvolutionStrategy([1.0] * models, _SPREAD, settings)
    errors = [each.error or 0.0 for each in start.values()]
    noise = 0.1 * math.hypot(*errors) / len(errors)
    spent = 0
    while spent + population(models) <= budget.evaluations and not strategy.stop():
        proposed = strategy.ask()
        losses = score([tuple(rounded(float(x)) for x in p) for p in proposed])
        spent += len(proposed)
        finite = [loss for loss in losses if math.isfinite(loss)]
        worst = max(finite, default=0.0)
        # A failed candidate is worse than all others, and the strategy needs a number.
        strategy.tell(proposed, [x if math.isfinite(x) else worst + 1 for x in losses])
        if len(finite) > 1 and max(finite) - min(finite) < noise:
            return (
                f"The search for weights stopped after {spent} evaluations: its "
                "candidates no longer differ by more than a tenth of the noise."
            )
    return f"The search for weights used {spent} evaluations."


def _cma() -> Any:
    try:
        import cma
    except ImportError as error:
        raise PCBError(
            "weights are tuned by the library cma: pip install 'mergekit-pcb[search]', "
            "or give --budget 0 to leave the weights"
        ) from error
    return cma
