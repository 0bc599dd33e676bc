"""Small changes to a recipe, in every form that mergekit reads.

A recipe is what ``yaml.safe_load`` gives. Models are listed in ``models`` or in the
``sources`` of ``slices``, below ``modules`` or not, and ``parameters`` at any level.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mergekit.common import ModelPath, ModelReference

Recipe = dict[str, Any]

_MODEL_KEYS = ("model", "base_model", "tokenizer_source", "source")


def groups(recipe: Recipe) -> Iterator[list[Recipe]]:
    """The lists of models that are merged with each other."""
    for place in _mappings(recipe):
        for key in ("models", "sources"):
            if isinstance(place.get(key), list):
                yield place[key]


def model_name(value: Any) -> str:
    """A model as one string, however the recipe writes it."""
    return str(ModelReference.model_validate(value))


def base_of(recipe: Recipe) -> str | None:
    """The base model, or None if the recipe names none."""
    found = (place.get("base_model") for place in _mappings(recipe))
    return next((model_name(base) for base in found if base is not None), None)


def values_of(recipe: Recipe, parameter: str, default: Any = None) -> list[Any]:
    """What a parameter is for every model but the base, in order."""
    base = base_of(recipe)
    return list(_values(recipe, parameter, base, default))


def _values(
    place: Recipe, parameter: str, base: str | None, inherited: Any
) -> Iterator[Any]:
    own = (place.get("parameters") or {}).get(parameter, inherited)
    if "model" in place and model_name(place["model"]) != base:
        yield own
    modules = place.get("modules") or {}
    below = [*modules.values(), *(place.get("slices") or ())]
    below += [*(place.get("models") or ()), *(place.get("sources") or ())]
    for inner in below:
        yield from _values(inner, parameter, base, own)


def mentions(recipe: Recipe, parameter: str) -> bool:
    """Whether a parameter is set anywhere."""
    return any(parameter in parameters for parameters in _parameters(recipe))


def set_everywhere(recipe: Recipe, parameter: str, value: Any) -> None:
    """Give a parameter one value for all models, in place of its values so far."""
    for parameters in _parameters(recipe):
        parameters.pop(parameter, None)
    _update(recipe, {parameter: value})


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
    """Scale the weights of the models so that their mean is ``mean``.

    Nothing is done if a weight differs by layer.
    """
    weights = values_of(recipe, "weight")
    if not all(isinstance(weight, (int, float)) for weight in weights):
        return
    if not sum(weights):
        return
    factor = mean * len(weights) / sum(weights)
    for parameters in _parameters(recipe):
        if "weight" in parameters:
            parameters["weight"] = float(f"{parameters['weight'] * factor:.6g}")


def without_base(recipe: Recipe, *, keep_entries: bool) -> None:
    """Take the base out, for a method that would average it in.

    Args:
        recipe: changed in place.
        keep_entries: leave the base where it is listed among the models.
    """
    base = base_of(recipe)
    for place in _mappings(recipe):
        place.pop("base_model", None)
        for key in ("tokenizer_source", "source"):
            # The tokenizer may still be that of the base, which now needs its name.
            if place.get(key) == "base":
                place[key] = base
    if not keep_entries:
        for entries in groups(recipe):
            entries[:] = [e for e in entries if model_name(e["model"]) != base]


def mix_base_in(recipe: Recipe, base: str, scale: float) -> bool:
    """Make an average of models the base plus ``scale`` times its change.

    The weights come to add up to ``scale`` and the base gets the rest, which is what
    lambda does for methods that have one. Returns whether plain weights allow it.
    """
    weights = values_of(recipe, "weight", 1.0)
    if not all(isinstance(weight, (int, float)) for weight in weights):
        return False
    if scale == 1:
        return True
    left = iter(weights)
    for entries in groups(recipe):
        own = [float(next(left)) for _ in entries]
        for entry, weight in zip(entries, own, strict=True):
            _update(entry, {"weight": weight / sum(own) * scale})
        where = {k: v for k, v in entries[0].items() if k == "layer_range"}
        rest = {"model": base, "parameters": {"weight": 1 - scale}}
        entries.append({**where, **rest})
    for parameters in _parameters(recipe):
        parameters.pop("normalize", None)
    _update(recipe, {"normalize": False})
    return True


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """A copy in which local models have absolute paths.

    It then works from every folder, and mergekit does not take a path that looks like
    ``owner/model`` for a model on the hub.
    """
    return {key: _absolute(key, value) for key, value in recipe.items()}


def _absolute(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {inner: _absolute(inner, v) for inner, v in value.items()}
    if isinstance(value, list):
        return [_absolute(key, item) for item in value]
    if key not in _MODEL_KEYS or not isinstance(value, str) or value == "base":
        return value
    model = ModelReference.model_validate(value)
    lora = model.lora and _absolute_path(model.lora)
    moved = {"model": _absolute_path(model.model), "lora": lora}
    return str(model.model_copy(update=moved))


def _absolute_path(path: ModelPath) -> ModelPath:
    if not Path(path.path).exists():
        return path
    return path.model_copy(update={"path": str(Path(path.path).resolve())})


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
