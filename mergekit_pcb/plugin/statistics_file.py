"""Whole-model statistics of an earlier merge: a cache in this process, and files.

Statistics depend on neither weight nor lambda, so another merge of the same models can
use them again. Whether the models are the same is decided by digests of their weights,
computed while the sample is drawn, not by their names.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mergekit_pcb.atomic_files import read_small_file, write_file
from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.domain import ModelStatistics
from mergekit_pcb.plugin.graph_domain import GraphDomain
from mergekit_pcb.plugin.model_scope import DomainStatistics, StatisticsRequest

save_to: ContextVar[Path | None] = ContextVar("save_to", default=None)
"""The file that merges in this context write their statistics to."""

# A search over coefficients alternates between few settings that change statistics.
_CACHE_SIZE = 8
# Some hundred bytes for each model and density.
_LARGEST = 20_000_000
_cache: OrderedDict[str, StatisticsFile] = OrderedDict()


class ModelEntry(BaseModel):
    """One model: its name then, a digest of its weights, and its statistics."""

    # Repeated, because the outer model's configuration does not hold for nested ones.
    model_config = ConfigDict(ser_json_inf_nan="constants", extra="forbid")

    name: str
    digest: str
    statistics: dict[float, ModelStatistics]


class ProjectionEntry(BaseModel):
    """What `lambda: auto` needs at one density of each model."""

    model_config = ConfigDict(extra="forbid")

    density: tuple[float, ...]
    projections: list[float]


class StatisticsFile(BaseModel):
    """The statistics of a domain, and what identifies the domain."""

    model_config = ConfigDict(ser_json_inf_nan="constants", extra="forbid")

    version: Literal[2] = 2
    inter: str
    clamp: float
    tensors: int
    parameters: int
    models: list[ModelEntry]
    projections: list[ProjectionEntry]

    @property
    def key(self) -> str:
        """All but the names and the statistics themselves."""
        settings = (self.inter, self.clamp, self.tensors, self.parameters)
        models = [(entry.digest, sorted(entry.statistics)) for entry in self.models]
        densities = sorted(entry.density for entry in self.projections)
        return repr((settings, models, densities))


def domain_statistics(
    request: StatisticsRequest, domain: GraphDomain, file: str | None
) -> DomainStatistics:
    """The statistics of a domain: read from a file, or from the cache, or computed.

    Args:
        request: which statistics.
        domain: the tensors they are statistics of.
        file: to read from, as named by the recipe, or None.

    Raises:
        PCBError: the file cannot be read, or is for another merge.
    """
    needed = _without_statistics(request, domain)
    if file is not None:
        content = read(Path(file))
        mismatch = _mismatch(content, needed)
        if mismatch:
            raise PCBError(f"statistics file {file} does not fit: {mismatch}")
    elif needed.key in _cache:
        content = _cache[needed.key]
        _cache.move_to_end(needed.key)
    else:
        computed = request.compute(domain)
        for entry, model in zip(needed.models, request.models, strict=True):
            entry.statistics = dict(computed.models[model])
        for projected in needed.projections:
            projected.projections = list(computed.projections[projected.density])
        content = _cache[needed.key] = needed
        if len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    target = save_to.get()
    if target is not None:
        _write(target, content)
    return DomainStatistics(
        {
            model: entry.statistics
            for model, entry in zip(request.models, content.models, strict=True)
        },
        {entry.density: entry.projections for entry in content.projections},
    )


def require_no_file(files: Iterable[str | None]) -> None:
    """Refuse to read or write statistics where no tensor has ``scope: model``.

    Args:
        files: the parameter `statistics` of every tensor.

    Raises:
        PCBError: one is not None, or statistics are to be saved.
    """
    needless = "no tensor of this recipe has scope: model"
    for file in files:
        if file is not None:
            raise PCBError(f"statistics: {file} is of no use, {needless}")
    target = save_to.get()
    if target is not None:
        raise PCBError(f"there are no statistics to write to {target}: {needless}")


def _without_statistics(
    request: StatisticsRequest, domain: GraphDomain
) -> StatisticsFile:
    """The content of the file that is needed, with zeros for all statistics."""
    unknown = ModelStatistics(0, 0, 0, 0)
    return StatisticsFile(
        inter=request.inter,
        clamp=request.clamp,
        tensors=len(domain.sizes),
        parameters=domain.size,
        models=[
            ModelEntry(
                name=str(model),
                digest=digest,
                statistics=dict.fromkeys(request.density[model], unknown),
            )
            for model, digest in zip(request.models, domain.digests, strict=True)
        ],
        projections=[
            ProjectionEntry(density=densities, projections=[])
            for densities in request.together
        ],
    )


def _mismatch(content: StatisticsFile, needed: StatisticsFile) -> str | None:
    """Why a file does not hold the statistics that are needed, or None if it does."""
    for name in ("inter", "clamp", "tensors", "parameters"):
        theirs, ours = getattr(content, name), getattr(needed, name)
        if theirs != ours:
            return f"it is for {name} {theirs}, this merge has {ours}"
    if (theirs := len(content.models)) != (ours := len(needed.models)):
        return f"it is for {theirs} models, this merge has {ours}"
    for theirs, ours in zip(content.models, needed.models, strict=True):
        if theirs.digest != ours.digest:
            return (
                f"the weights of {ours.name}, or of the base, are not those of "
                f"{theirs.name} then (dtype and tokenizer count too)"
            )
        for density in ours.statistics:
            if density not in theirs.statistics:
                return f"it knows nothing of {ours.name} at density {density:g}"
    known = {entry.density for entry in content.projections}
    for entry in needed.projections:
        if entry.density not in known:
            densities = ", ".join(f"{r:g}" for r in entry.density)
            return f"it knows nothing of one tensor with the densities {densities}"
    return None


def _is_damaged(content: StatisticsFile) -> bool:
    statistics = [s for entry in content.models for s in entry.statistics.values()]
    return any(
        math.isnan(number) or low < 0 or high < low
        for low, high, *others in statistics
        for number in (low, high, *others)
    ) or any(
        len(entry.projections) != len(content.models)
        or not all(map(math.isfinite, entry.projections))
        for entry in content.projections
    )


def read(path: Path) -> StatisticsFile:
    """Read a file that an earlier merge wrote.

    Raises:
        PCBError: it cannot be read, or is no such file.
    """
    try:
        content = read_small_file(path, _LARGEST)
    except PCBError as error:
        raise PCBError(f"statistics file {error.message}") from error
    try:
        found = StatisticsFile.model_validate_json(content)
    except ValidationError as error:
        if any(each["loc"] == ("version",) for each in error.errors()):
            raise PCBError(
                f"{path} was written by another version of mergekit-pcb: write it "
                "again with --save-statistics"
            ) from error
        raise PCBError(f"{path} is not a statistics file of mergekit-pcb") from error
    if _is_damaged(found):
        raise PCBError(f"{path} is damaged: write it again with --save-statistics")
    return found


def _write(path: Path, content: StatisticsFile) -> None:
    try:
        write_file(path, content.model_dump_json(indent=1))
    except OSError as error:
        raise PCBError(f"cannot write {path}: {error.strerror}") from error
