"""The candidates of `mergekit-pcb search`, and as many of each of its peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from mergekit.merge_methods import merge_tensors

from experiments.in_memory import (
    added,
    auto_scale,
    merged_task_vector,
    projections,
    task_vectors,
)
from experiments.suites.suite import State
from mergekit_pcb.kernel.projection import scale_for
from mergekit_pcb.plugin.parameters import DEFAULT_DENSITY
from mergekit_pcb.search.space import (
    DENSITIES,
    LAMBDA_FACTORS,
    TASK_ARITHMETIC,
    Setting,
    settings,
)

UNTUNED, SEARCH = "untuned", "search"
# Lambdas of a peer with four densities, and of one without.
_SEVEN = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0)
_TWENTY_EIGHT = tuple(round(0.25 * 16 ** (i / 27), 3) for i in range(28))

# Weight, and what is tried; weights are those of `compare`. The search has 27.
PEERS: Mapping[str, tuple[float, Mapping[str, Sequence[float]]]] = {
    "ties": (1.0, {"density": DENSITIES, "lambda": _SEVEN}),
    "dare_ties": (0.4, {"density": DENSITIES, "lambda": _SEVEN}),
    "task_arithmetic": (0.4, {"lambda": _TWENTY_EIGHT}),
}


class Candidate(NamedTuple):
    """A merge.

    Attributes:
        source: `UNTUNED`, `SEARCH`, or the peer.
        name: method and settings.
        merge: makes the weights, by the names of the base.
    """

    source: str
    name: str
    merge: Callable[[], State]


def candidates(base: State, models: Sequence[State]) -> Iterator[Candidate]:
    """Those of the search first."""
    tau = task_vectors(base, models)
    untuned = merged_task_vector(tau, DEFAULT_DENSITY)
    own = auto_scale(untuned, tau)
    yield Candidate(UNTUNED, "pcb", partial(added, base, untuned, own))
    for setting in settings():
        merged = _merged(tau, setting)
        automatic = scale_for(projections(merged, tau).one, len(models))
        for factor in LAMBDA_FACTORS:
            scale = dict.fromkeys(merged, automatic * factor)
            merge = partial(added, base, merged, scale)
            yield Candidate(SEARCH, f"{setting}, lambda x {factor:g}", merge)
    for method, (weight, grid) in PEERS.items():
        for values in product(*grid.values()):
            swept = dict(zip(grid, values, strict=True))
            label = ", ".join(f"{key} {value:g}" for key, value in swept.items())
            parameters = {"weight": weight, **swept}
            merge = partial(_by_mergekit, method, base, models, parameters)
            yield Candidate(method, f"{method}, {label}", merge)


def _merged(tau: Mapping[str, Sequence[torch.Tensor]], setting: Setting) -> State:
    if setting.method == TASK_ARITHMETIC:
        return {name: torch.stack(list(each)).sum(0) for name, each in tau.items()}
    return merged_task_vector(tau, setting.density, scope=setting.scope)


def _by_mergekit(
    method: str, base: State, models: Sequence[State], parameters: Mapping[str, float]
) -> State:
    torch.manual_seed(0)  # of dare_ties
    return {
        name: merge_tensors(
            [tensor, *(model[name] for model in models)],
            method,
            parameters=dict(parameters),
            base_index=0,
        )
        for name, tensor in base.items()
    }
