"""Small changes to a recipe, in every form that mergekit reads.

A recipe is what ``yaml.safe_load`` gives. Models are listed in ``models`` or in the
``sources`` of ``slices``, below ``modules`` or not, and ``parameters`` at any level.
What YAML's aliases name twice is one object, which a change would reach twice: begin
with `with_absolute_paths`, whose result has no such objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mergekit.common import ModelReference

from mergekit_pcb.recipes.models import as_written, located

Recipe = dict[str, Any]

_MODEL_KEYS = ("model", "base_model", "tokenizer_source", "source")


def groups(recipe: Recipe) -> Iterator[list[Recipe]]:
    """The lists of models that are merged with each other."""
    for place in _mappings(recipe):
        for key in ("models", "sources"):
            if isinstance(place.get(key), list):
                yield place[key]


def entries(recipe: Recipe) -> list[Recipe]:
    """Every entry of a model that is merged, in the order of `values_of`."""
    return list(_entries(recipe))


def _entries(place: Recipe) -> Iterator[Recipe]:
    if "model" in place:
        yield place
    for inner in _below(place):
        yield from _entries(inner)


def experts_of(recipe: Recipe) -> list[ModelReference]:
    """The models beside the base, located, each once, in order."""
    base = base_of(recipe)
    models = [located(entry["model"]) for entry in entries(recipe)]
    return [model for model in dict.fromkeys(models) if model != base]


def base_of(recipe: Recipe) -> ModelReference | None:
    """The base model, located, or None if the recipe names none."""
    found = (place.get("base_model") for place in _mappings(recipe))
    return next((located(base) for base in found if base is not None), None)


def lists(recipe: Recipe, model: ModelReference) -> bool:
    """Whether a located model is one of those that are merged."""
    entries = [entry for group in groups(recipe) for entry in group]
    return any(located(entry["model"]) == model for entry in entries)


def plain(value: Any) -> Any:
    """A number, where mergekit reads a value as one number for all tensors.

    Example:
        >>> plain("5e-1"), plain([0.5]), plain([0.5, 1]), plain("tensor")
        (0.5, 0.5, [0.5, 1], 'tensor')
    """
    if isinstance(value, list) and len(value) == 1:
        return plain(value[0])
    if isinstance(value, dict) and value.keys() == {"value"}:
        return plain(value["value"])
    if isinstance(value, str):
        # YAML reads `5e-1`, which has no point, as text.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a setting, filters and gradients included."""
    value = plain(value)
    if isinstance(value, dict):
        yield from numbers(value.get("value"))
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield float(value)


def values_of(recipe: Recipe, parameter: str, default: Any = None) -> list[Any]:
    """What a parameter is for every model but the base, in order; `plain`."""
    base = base_of(recipe)
    return [plain(v) for v in _values(recipe, parameter, base, default)]


def _values(
    place: Recipe, parameter: str, base: ModelReference | None, inherited: Any
) -> Iterator[Any]:
    own = (place.get("parameters") or {}).get(parameter, inherited)
    if "model" in place and located(place["model"]) != base:
        yield own
    for inner in _below(place):
        yield from _values(inner, parameter, base, own)


def _below(place: Recipe) -> list[Recipe]:
    """The parts of a recipe that inherit the parameters of this one."""
    modules = place.get("modules") or {}
    outer = [*modules.values(), *(place.get("slices") or ())]
    return [*outer, *(place.get("models") or ()), *(place.get("sources") or ())]


def mentions(recipe: Recipe, parameter: str) -> bool:
    """Whether a parameter is set anywhere."""
    return any(parameter in parameters for parameters in _parameters(recipe))


def set_everywhere(recipe: Recipe, parameter: str, value: Any) -> None:
    """Give a parameter one value for all models, in place of its values so far."""
    drop(recipe, parameter)
    _update(recipe, {parameter: value})


def drop(recipe: Recipe, parameter: str) -> None:
    """Remove a parameter wherever it is set."""
    for parameters in _parameters(recipe):
        parameters.pop(parameter, None)


def set_default(recipe: Recipe, parameter: str, value: Any) -> None:
    """Give a parameter a value for the models that have none."""
    recipe["parameters"] = {parameter: value, **(recipe.get("parameters") or {})}


def drop_unknown(recipe: Recipe, known: set[str]) -> list[str]:
    """Remove the parameters that are not ``known``; returns their names."""
    dropped = set().union(*_parameters(recipe)) - known
    for parameters in _parameters(recipe):
        for name in dropped & set(parameters):
            del parameters[name]
    return sorted(dropped)


def scale_weights(recipe: Recipe, mean: float) -> None:
    """Scale the weights of the models so that the mean of their sizes is ``mean``.

    That of the base stays. Nothing is done if a model has no weight, or one that
    differs by layer.
    """
    weights = values_of(recipe, "weight")
    if not all(isinstance(weight, (int, float)) for weight in weights):
        return
    total = sum(map(abs, weights))
    if not total:
        return
    factor = mean * len(weights) / total
    base = base_of(recipe)
    for place in _mappings(recipe):
        parameters = place.get("parameters") or {}
        is_base = "model" in place and located(place["model"]) == base
        weight = plain(parameters.get("weight"))
        # Another value, such as a gradient, is none that a model takes.
        if isinstance(weight, (int, float)) and not is_base:
            parameters["weight"] = float(f"{weight * factor:.6g}")


def without_base(recipe: Recipe, *, keep_entries: bool) -> None:
    """Take the base out, for a method that would average it in and has no weights.

    Args:
        recipe: changed in place.
        keep_entries: leave the base where it is listed among the models.
    """
    base = base_of(recipe)
    for place in _mappings(recipe):
        place.pop("base_model", None)
        for key in ("tokenizer_source", "source"):
            # The tokenizer may still be that of the base, which now needs its name.
            if base is not None and place.get(key) == "base":
                place[key] = as_written(base)
    if not keep_entries:
        for entries in groups(recipe):
            entries[:] = [e for e in entries if located(e["model"]) != base]


def add_base_to_slices(recipe: Recipe, base: Any) -> None:
    """List the base in each slice that does not, as mergekit does in ``models`` only.

    Args:
        recipe: changed in place.
        base: as recipes write it. It gets the layers of a slice's first model.
    """
    for place in _mappings(recipe):
        sources = place.get("sources")
        if isinstance(sources, list) and all(
            located(source["model"]) != located(base) for source in sources
        ):
            # Copied, or YAML would write one as a reference to the other.
            layers = list(sources[0]["layer_range"])
            sources.append({"model": base, "layer_range": layers})


def weigh_base(recipe: Recipe, base: ModelReference, weight: float) -> None:
    """Give the base a weight of its own in every average.

    With weight 0 it gives the merge its configuration and tokenizer, but no values.
    """
    for entries in groups(recipe):
        listed = [entry for entry in entries if located(entry["model"]) == base]
        if not listed:
            where = {k: v for k, v in entries[0].items() if k == "layer_range"}
            listed = [{"model": as_written(base), **where}]
            entries += listed
        for entry in listed:
            _update(entry, {"weight": weight})


def mix_base_in(recipe: Recipe, base: ModelReference, scale: float) -> bool:
    """Make an average of models the base plus ``scale`` times its change.

    The weights come to add up to ``scale`` and the base gets the rest, which is what
    lambda does for methods that have one. Returns whether the weights allow it: they
    must be plain, not below 0, and not all 0.
    """
    weights = values_of(recipe, "weight", 1.0)
    if not all(isinstance(weight, (int, float)) and weight >= 0 for weight in weights):
        return False
    left = iter(weights)
    merged = []
    for entries in groups(recipe):
        experts = [entry for entry in entries if located(entry["model"]) != base]
        merged.append([(entry, float(next(left))) for entry in experts])
    totals = [sum(weight for _, weight in group) for group in merged]
    if not all(totals):
        return False
    weigh_base(recipe, base, 1 - scale)
    if scale == 1:
        return True
    for group, total in zip(merged, totals, strict=True):
        for entry, weight in group:
            _update(entry, {"weight": weight / total * scale})
    for parameters in _parameters(recipe):
        parameters.pop("normalize", None)
    _update(recipe, {"normalize": False})
    return True


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """A copy in which local models have absolute paths, and no object is used twice.

    It then works from every folder, and mergekit does not take a path that looks like
    ``owner/model`` for a model on the hub.
    """
    return {key: _absolute(key, value) for key, value in recipe.items()}


def _absolute(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(key, item) for item in value]
    # A token's source may have a kind; a model has none.
    if key in _MODEL_KEYS and not (isinstance(value, dict) and "kind" in value):
        is_model = value is not None and value not in ("base", "union")
        return as_written(located(value)) if is_model else value
    if isinstance(value, dict):
        return {inner: _absolute(inner, v) for inner, v in value.items()}
    return value


def _update(place: Recipe, parameters: Recipe) -> None:
    place["parameters"] = {**(place.get("parameters") or {}), **parameters}


def _mappings(value: Any) -> Iterator[Recipe]:
    if isinstance(value, dict):
        yield value
        for inner in list(value.values()):
            yield from _mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mappings(inner)


def _parameters(recipe: Recipe) -> list[Recipe]:
    found = (place.get("parameters") for place in _mappings(recipe))
    return [parameters for parameters in found if isinstance(parameters, dict)]
