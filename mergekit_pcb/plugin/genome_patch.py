"""What `mergekit-evolve` must know of `pcb`: its parameters, and lambda as a number."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

_NAME = "pcb"
_WRAPPED = "_mergekit_pcb_wraps"


def wrap_genome(genome: ModuleType) -> None:
    """Declare the parameters, and wrap what makes a recipe of a genotype.

    `lambda: auto` would undo every change of all weights together, and of all weights
    of a layer. mergekit starts with weights of 1/n: lambda n makes that a merge with
    weights of 1.

    Raises:
        AttributeError: this mergekit has no such functions.
    """
    # mergekit-evolve takes the first name for the one that scales a model.
    genome.METHOD_PARAM_MAPS.setdefault(_NAME, ["weight", "density"])
    original = genome.ModelGenome.genotype_merge_config
    if hasattr(original, _WRAPPED):
        return

    @functools.wraps(original)
    def with_lambda(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = original(self, *args, **kwargs)
        if config.merge_method == _NAME:
            parameters = {"lambda": float(len(self.definition.models))}
            config.parameters = {**parameters, **(config.parameters or {})}
        return config

    setattr(with_lambda, _WRAPPED, True)
    genome.ModelGenome.genotype_merge_config = with_lambda
