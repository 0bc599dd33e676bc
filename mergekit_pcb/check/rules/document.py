"""One recipe as mergekit reads it: which models are merged, with which settings."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union, get_args, get_origin

from mergekit import merge_methods
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.merge_methods import MergeMethod, MergeMethodSpec, ParameterScope
from mergekit.merge_methods.base import ParameterSpec
from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig
from pydantic import BaseModel

from mergekit_pcb.recipes.positions import Place

YAML = "yaml"
MULTI = "multi"
PYTORCH = "pytorch"

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Input:
    """A model that takes part in a merge, and where the recipe names it."""

    model: ModelReference
    place: Place
    entry: Place
    # mergekit adds a base model that the recipe does not list.
    appended: bool = False

    @property
    def settings(self) -> Place | None:
        """The model's own `parameters`."""
        return None if self.appended else self.entry.get("parameters")


@dataclass(frozen=True)
class Group:
    """Models that are merged with each other: all of them, or those of one slice."""

    place: Place
    inputs: tuple[Input, ...]
    base: Input | None
    # `parameters` that hold for the whole group, the strongest first.
    shared: tuple[Place, ...]
    slice: Place | None = None
    module: str | None = None
    # mergekit takes embeddings from the first slice and the head from the last.
    has_vocabulary: bool = True

    @property
    def non_base(self) -> tuple[Input, ...]:
        """The inputs that have a task vector."""
        base = self.base.model if self.base else None
        return tuple(source for source in self.inputs if source.model != base)

    def owners(self, parameter: ParameterSpec) -> Sequence[Input | None]:
        """The inputs that have their own value of a parameter; None: one for all."""
        if parameter.scope == ParameterScope.SHARED:
            return (None,)
        is_of_all = parameter.scope == ParameterScope.INPUT
        return self.inputs if is_of_all else self.non_base

    def sources(self, source: Input | None, name: str) -> list[Place]:
        """The settings of parameter ``name``, in the order that mergekit reads them."""
        levels = [source.settings] if source is not None else []
        found = [level.fields.get(name) for level in (*levels, *self.shared) if level]
        return [place for place in found if place is not None]


@dataclass(frozen=True)
class Document:
    """One recipe of a file; ``siblings`` are the names of a file's other merges."""

    root: Place
    kind: str
    siblings: tuple[str, ...] = ()

    @property
    def schema(self) -> type[BaseModel]:
        """The pydantic model that mergekit reads the recipe into."""
        return RawPyTorchMergeConfig if self.kind == PYTORCH else MergeConfiguration

    @property
    def is_pcb(self) -> bool:
        """Whether the recipe is for pcb."""
        return self.spec is not None and self.spec.name == "pcb"

    @property
    def name(self) -> str | None:
        """What mergekit-multi calls the merge."""
        place = self.root.get("name")
        return place.value if place and isinstance(place.value, str) else None

    @cached_property
    def method(self) -> MergeMethod | None:
        """The merge method; None when mergekit has none of that name."""
        place = self.root.get("merge_method")
        written = place.value if place else None
        methods = merge_methods.registered_methods()
        return next((m for m in methods if m.spec.name == written), None)

    @property
    def spec(self) -> MergeMethodSpec | None:
        """The method's declaration of its parameters and inputs."""
        return self.method.spec if self.method else None

    @cached_property
    def parameters(self) -> dict[str, ParameterSpec]:
        """The method's parameters by name; empty when the method is unknown."""
        return {p.name: p for p in self.spec.parameters} if self.spec else {}

    @property
    def tokenizer(self) -> Place | None:
        """Which tokenizer the merged model gets, written in one of two ways."""
        settings = self.root.get("tokenizer")
        source = self.root.get("tokenizer_source")
        return source or (settings.get("source") if settings else None)

    def parse(self, place: Place) -> ModelReference | None:
        """The model that a place names; None when mergekit cannot read it."""
        value: Any = place.value
        if self.kind == PYTORCH:
            # mergekit-pytorch opens a file: `@` and `+` belong to its name.
            value = {"model": {"path": value}}
        try:
            return ModelReference.model_validate(value)
        except (ValueError, RuntimeError):
            return None

    @cached_property
    def local_models(self) -> dict[ModelReference, Any]:
        """What has been looked up of the files of each model."""
        return {}

    @cached_property
    def base(self) -> Input | None:
        """The recipe's base model."""
        return self._input(self.root, "base_model")

    @property
    def models(self) -> set[ModelReference]:
        """Every model the recipe names."""
        found = (self.parse(place) for place in self.references())
        return {model for model in found if model is not None}

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Every set of models that is merged together, as far as it can be read."""
        holders: list[tuple[str | None, Place]] = [(None, self.root)]
        if (modules := self.root.get("modules")) is not None:
            holders = list(modules.fields.items())
        return tuple(g for name, place in holders for g in self._groups_of(place, name))

    def _groups_of(self, place: Place, module: str | None) -> Iterator[Group]:
        blocks = [place.get("parameters")] if module is not None else []
        levels = _present(*blocks, self.root.get("parameters"))
        if entries := place.items_of("models"):
            inputs = [self._input(entry, "model") for entry in entries]
            base = self.base
            listed = {source.model for source in inputs if source}
            if base is not None and base.model not in listed:
                inputs.append(base)
            # A model that cannot be read is a finding of its own, and findings that
            # follow from its absence would only distract.
            if None not in inputs and (base or not self.root.get("base_model")):
                models = place.fields["models"]
                yield Group(models, _present(*inputs), base, levels, module=module)
        pieces = place.items_of("slices")
        for index, piece in enumerate(pieces):
            entries = piece.items_of("sources")
            inputs = [self._input(entry, "model") for entry in entries]
            if None in inputs or not inputs:
                continue
            yield Group(
                piece,
                _present(*inputs),
                self._input(piece, "base_model") or self.base,
                _present(piece.get("parameters"), *levels),
                slice=piece,
                module=module,
                has_vocabulary=index in (0, len(pieces) - 1),
            )

    def _input(self, entry: Place, key: str) -> Input | None:
        place = entry.get(key)
        model = self.parse(place) if place is not None else None
        if place is None or model is None:
            return None
        return Input(model, place, entry, appended=key == "base_model")

    def references(self) -> Iterator[Place]:
        """Every place that names a model."""
        if self.kind == PYTORCH:
            named = [entry.get("model") for entry in self.root.items_of("models")]
            yield from _present(*named, self.root.get("base_model"))
            return
        for place, model in typed(self.root, self.schema):
            if model is ModelReference:
                yield place


def _present(*places: Any) -> tuple[Any, ...]:
    return tuple(place for place in places if place is not None)


def typed(place: Place, annotation: Any) -> Iterator[tuple[Place, type[BaseModel]]]:
    """Every place that mergekit reads into a pydantic model, with that model."""
    models = []
    for kind in _alternatives(annotation):
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal and place.value in arguments:
            return
        if origin is list:
            for item in place.items:
                yield from typed(item, arguments[0])
        elif origin is dict:
            for value in place.fields.values():
                yield from typed(value, arguments[1])
        elif _is_model(kind):
            models.append(kind)
    # A mapping may also be written as one text, as models are: `owner/name`.
    if models and not isinstance(place.value, list):
        chosen = max(models, key=lambda kind: _likeness(place, kind))
        if isinstance(place.value, str) and ModelReference in models:
            chosen = ModelReference
        yield place, chosen
        for name, field in chosen.model_fields.items():
            if (child := place.get(name)) is not None:
                yield from typed(child, field.annotation)


def levels(annotation: Any, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Where mergekit reads which pydantic model: ``slices[].sources[]``, for one."""
    for kind in _alternatives(annotation):
        if get_origin(kind) is list:
            yield from levels(get_args(kind)[0], f"{path}[]")
        elif get_origin(kind) is dict:
            yield from levels(get_args(kind)[1], f"{path}.*")
        elif _is_model(kind):
            yield path, kind
            for name, field in kind.model_fields.items():
                yield from levels(field.annotation, f"{path}.{name}".lstrip("."))


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _likeness(place: Place, kind: type[BaseModel]) -> tuple[int, int]:
    """How many of a model's tags, and of its fields, a mapping has."""
    fields = kind.model_fields
    shared = fields.keys() & place.fields.keys()
    # The arguments of a Literal are values; those of other annotations are types.
    tags = [place.fields[k].value in get_args(fields[k].annotation) for k in shared]
    return sum(tags), len(shared)
