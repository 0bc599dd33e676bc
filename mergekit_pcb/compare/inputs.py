"""The models of a comparison or a search, as a recipe names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference

from mergekit_pcb.compare.result_cache import identity_of
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes import edits
from mergekit_pcb.recipes.model_names import short_names
from mergekit_pcb.recipes.models import located


@dataclass(frozen=True)
class Inputs:
    """The models of a recipe, located.

    Attributes:
        base: the base model.
        experts: the others by a short name.
        own_vocabulary: whether merges have other tokens than the base, or in another
            order.
        find: gives the folder of a model.
        adapter_dtype: in which adapters are added to their base.
    """

    base: ModelReference
    experts: Mapping[str, ModelReference]
    own_vocabulary: bool = False
    find: Callable[[ModelReference], Path] = lambda model: Path(model.local_path())
    adapter_dtype: str | None = None

    @property
    def models(self) -> list[ModelReference]:
        """All models, the base first."""
        return [self.base, *self.experts.values()]

    def identity_of(self, model: ModelReference) -> list[Any]:
        """What tells a model from others, and from itself before it was changed."""
        found = identity_of(model)
        return found if model.lora is None else [*found, self.adapter_dtype]


def inputs_of(recipe: edits.Recipe) -> Inputs:
    """The models that a recipe merges.

    Args:
        recipe: as the user wrote it; links name models, and are resolved.

    Raises:
        PCBError: it names no base, or nothing else.
    """
    base = edits.base_of(recipe)
    if base is None:
        raise PCBError(
            "the recipe names no base_model: add the model that the others were "
            "fine-tuned from (methods that take none are run without it)"
        )
    entries = [entry for group in edits.groups(recipe) for entry in group]
    models: dict[ModelReference, str] = {}
    for entry in entries:
        named = str(located(entry["model"], keep_links=True))
        models.setdefault(located(entry["model"]), named)
    models.pop(base, None)
    if not models:
        raise PCBError(
            f"the recipe has no model beside the base, {base}: list the models that "
            "were fine-tuned from it under `models:`"
        )
    names = short_names(list(models.values()))
    experts = dict(zip(names, models, strict=True))
    return Inputs(base, experts, has_own_vocabulary(recipe, base))


def has_own_vocabulary(recipe: Mapping[str, Any], base: ModelReference) -> bool:
    """Whether merges have other tokens than the base, or in another order."""
    settings = recipe.get("tokenizer")
    if settings is None:
        source = recipe.get("tokenizer_source", "base")
    elif settings.get("tokens") or settings.get("pad_to_multiple_of"):
        return True
    else:
        source = settings.get("source", "union")
    return source != "base" and (source == "union" or located(source) != base)
