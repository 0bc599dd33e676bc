"""The recipe that `mergekit-pcb init` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mergekit.common import ModelReference, dtype_from_name

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.parameters import DEFAULT_DENSITY, DEFAULT_LAMBDA
from mergekit_pcb.recipes.findings import ERROR
from mergekit_pcb.recipes.model_config import config_of
from mergekit_pcb.recipes.models import in_one_line, located, named
from mergekit_pcb.recipes.near_paths import near_paths
from mergekit_pcb.suggestions import quoted

_DTYPE = "bfloat16"
_ADAPTER_OPTIONS = "--lora-merge-cache adapters/ --lora-merge-dtype float32"
# What the recipe of an adapter is told, and the options in the command already do.
_SAID_BY_OPTIONS = "run mergekit with `--lora-merge-cache DIR`"


class FirstRecipe(NamedTuple):
    """A recipe, and what to say of it.

    Attributes:
        text: YAML.
        options: that mergekit-yaml needs for it.
        advice: a line each.
    """

    text: str
    options: str
    advice: list[str]


def first_recipe(base: str, models: Sequence[str]) -> FirstRecipe:
    """A recipe of `pcb` without parameters, which passes `check`.

    Args:
        base: a folder or a name on the hub.
        models: likewise, or with an adapter: ``base+adapter``.

    Raises:
        PCBError: a model is none, is listed twice, or does not fit the base.
    """
    for name in (base, *models):
        _require_there(name)
    root = named(base)
    others = [named(model) for model in models]
    if located(root) in map(located, others):
        raise PCBError(f"{base} is the base, and listed as a model too: leave it out")
    for number, model in enumerate(others):
        if located(model) in map(located, others[:number]):
            raise PCBError(f"{models[number]} is listed twice: leave one out")
    adapters = any(model.lora is not None for model in others)
    text = "".join(f"{line}\n" for line in _lines(root, others, adapters=adapters))
    advice = []
    for finding in check_recipe(text, "recipe.yml", "yaml"):
        said = ": ".join(filter(None, [finding.message, finding.fix]))
        if finding.severity == ERROR:
            raise PCBError(said)
        if finding.fix != _SAID_BY_OPTIONS:
            advice.append(said)
    if len(models) == 1:
        advice.append(
            "PCB lets models compete, and one model has nobody to compete with"
        )
    return FirstRecipe(text, _ADAPTER_OPTIONS if adapters else "", advice)


def _lines(
    base: ModelReference, models: Sequence[ModelReference], *, adapters: bool
) -> Iterator[str]:
    yield "merge_method: pcb"
    yield f"base_model: {in_one_line(base)}  # all others were fine-tuned from it"
    yield "models:"
    yield from (f"  - model: {in_one_line(model)}" for model in models)
    defaults = f"density {DEFAULT_DENSITY} and lambda {DEFAULT_LAMBDA}"
    yield f"# No parameters: the defaults are {defaults}."
    if not _same_vocabulary([base, *models]):
        yield "tokenizer:"
        yield "  source: base  # a model that added tokens has a larger embedding"
    dtype, why = _dtype(base)
    if adapters:
        yield "dtype: float32  # bfloat16 would round small changes of adapters away"
        yield f"out_dtype: {dtype}{why}"
    else:
        yield f"dtype: {dtype}{why}"


def _dtype(base: ModelReference) -> tuple[str, str]:
    """The dtype of the merged model, and a comment on where it is from."""
    config = _config(base)
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            name = str(place.get(key, "")).removeprefix("torch.")
            if name and _is_float(name):
                return name, "  # as the base has it"
    return _DTYPE, ""


def _is_float(name: str) -> bool:
    try:
        dtype = dtype_from_name(name)
    except RuntimeError:  # which is what mergekit raises
        return False
    return dtype is not None and dtype.is_floating_point


def _same_vocabulary(models: Sequence[ModelReference]) -> bool:
    """Whether all models are known to have embeddings of the same size."""
    sizes = {_vocabulary(_config(model)) for model in models}
    return len(sizes) == 1 and None not in sizes


def _vocabulary(config: dict[str, Any]) -> int | None:
    inner = config.get("text_config")
    size = config.get("vocab_size")
    if size is None and isinstance(inner, dict):
        size = inner.get("vocab_size")
    return size if isinstance(size, int) else None


def _config(model: ModelReference) -> dict[str, Any]:
    """The configuration of a model in a folder; empty for others."""
    try:
        return config_of(Path(model.model.path)) or {}
    except PCBError:
        return {}  # `check` names the fault


def _require_there(name: str) -> None:
    """Refuse a path that leads nowhere, with the name that was probably meant.

    Raises:
        PCBError: it is one.
    """
    for part in _parts(name):
        if part.startswith(("/", "./", "../", "~")) and not Path(part).exists():
            near = near_paths(part)
            hint = f"did you mean {quoted(near, 'or')}?" if near else "mend the path"
            raise PCBError(f"there is no folder {part}: {hint}")


def _parts(name: str) -> list[str]:
    """The paths of a model and its adapter."""
    return [name] if Path(name).exists() else name.split("+")
