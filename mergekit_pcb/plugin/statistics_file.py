"""Whole-model statistics kept for another merge: in this process, and in files.

Thresholds depend on neither weight nor lambda, so a second merge of the same models can
reuse them. That the models are the same is judged by digests of their weights, taken
while the sample is drawn, not by their names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mergekit_pcb.atomic_files import write_file
from mergekit_pcb.errors import PCBError
from mergekit_pcb.kernel.formula import ModelStatistics
from mergekit_pcb.plugin.graph_scope import GraphDomain
from mergekit_pcb.plugin.model_scope import DomainStatistics, StatisticsRequest

save_to: ContextVar[Path | None] = ContextVar("save_to", default=None)
"""Where the statistics of the merges of this context are written."""

# A coefficient search alternates between few settings that change statistics.
_REMEMBERED = 8
_remembered: OrderedDict[str, StatisticsFile] = OrderedDict()


class ModelEntry(BaseModel):
    """One model: what it was called, a digest of its weights, and its statistics."""

    # By itself: the outer model's setting does not reach the numbers in here.
    model_config = ConfigDict(ser_json_inf_nan="constants", extra="forbid")

    name: str
    digest: str
    statistics: dict[float, ModelStatistics]


class StatisticsFile(BaseModel):
    """What is known of a domain, and what it takes to recognise the domain."""

    model_config = ConfigDict(ser_json_inf_nan="constants", extra="forbid")

    version: Literal[1] = 1
    inter: str
    clamp: float
    tensors: int
    parameters: int
    models: list[ModelEntry]

    @property
    def key(self) -> str:
        """Digest of all but the names and the statistics themselves."""
        known = (self.inter, self.clamp, self.tensors, self.parameters)
        models = [(entry.digest, sorted(entry.statistics)) for entry in self.models]
        return repr((known, models))


def answer(
    question: StatisticsRequest, domain: GraphDomain, given: str | None
) -> DomainStatistics:
    """The answer to the question: read from a file, remembered, or asked anew.

    Args:
        question: what must be known.
        domain: of the tensors it is about.
        given: file with the answer, as named by the recipe, or None.

    Raises:
        PCBError: the file cannot be read, or is not about this merge.
    """
    wanted = _described(question, domain)
    if given is not None:
        known = _read(Path(given))
        mismatch = _mismatch(known, wanted)
        if mismatch:
            raise PCBError(f"statistics file {given} does not fit: {mismatch}")
    elif wanted.key in _remembered:
        known = _remembered[wanted.key]
    else:
        found = question.ask(domain)
        for entry, model in zip(wanted.models, question.models, strict=True):
            entry.statistics = dict(found[model])
        known = _remembered[wanted.key] = wanted
        if len(_remembered) > _REMEMBERED:
            _remembered.popitem(last=False)
    target = save_to.get()
    if target is not None:
        _write(target, known)
    return {
        model: entry.statistics
        for model, entry in zip(question.models, known.models, strict=True)
    }


def require_no_use(given: Iterable[str | None]) -> None:
    """Refuse to read or write statistics where no tensor has ``scope: model``.

    Args:
        given: `statistics` of every tensor.

    Raises:
        PCBError: one is given, or statistics are to be saved.
    """
    needless = "no tensor of this recipe has scope: model"
    for path in given:
        if path is not None:
            raise PCBError(f"statistics: {path} is of no use, {needless}")
    target = save_to.get()
    if target is not None:
        raise PCBError(f"there are no statistics to write to {target}: {needless}")


def _described(question: StatisticsRequest, domain: GraphDomain) -> StatisticsFile:
    unknown = ModelStatistics(0, 0, 0, 0)
    return StatisticsFile(
        inter=question.inter,
        clamp=question.clamp,
        tensors=len(domain.sizes),
        parameters=domain.size,
        models=[
            ModelEntry(
                name=str(model),
                digest=digest,
                statistics=dict.fromkeys(question.density[model], unknown),
            )
            for model, digest in zip(question.models, domain.digests, strict=True)
        ],
    )


def _mismatch(known: StatisticsFile, wanted: StatisticsFile) -> str | None:
    """Why a file does not answer what is wanted, or None if it does."""
    for name in ("inter", "clamp", "tensors", "parameters"):
        theirs, ours = getattr(known, name), getattr(wanted, name)
        if theirs != ours:
            return f"it is for {name} {theirs}, this merge has {ours}"
    if len(known.models) != len(wanted.models):
        return (
            f"it is for {len(known.models)} models, this merge has {len(wanted.models)}"
        )
    for theirs, ours in zip(known.models, wanted.models, strict=True):
        if theirs.digest != ours.digest:
            return (
                f"the weights of {ours.name}, or of the base, are not those of "
                f"{theirs.name} then (dtype and tokenizer count too)"
            )
        for density in ours.statistics:
            if density not in theirs.statistics:
                return f"it knows nothing of {ours.name} at density {density:g}"
    return None


def _read(path: Path) -> StatisticsFile:
    try:
        return StatisticsFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PCBError(f"statistics file {path}: {error.strerror}") from error
    except ValidationError as error:
        raise PCBError(f"{path} is not a statistics file of mergekit-pcb") from error


def _write(path: Path, content: StatisticsFile) -> None:
    try:
        write_file(path, content.model_dump_json(indent=1))
    except OSError as error:
        raise PCBError(f"cannot write {path}: {error.strerror}") from error
