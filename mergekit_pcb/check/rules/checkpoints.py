"""Files of local models that would stop the merge, or are not what they seem.

Configurations, indices and headers of weight files are read; weights never are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.common import ModelReference
from mergekit.merge_methods import BasePolicy

from mergekit_pcb.check.rules.document import PYTORCH, Document, Group, Input
from mergekit_pcb.check.rules.local_models import LocalModel, local_model
from mergekit_pcb.errors import PCBError
from mergekit_pcb.plugin.checkpoint_files import checkpoint_problem
from mergekit_pcb.plugin.input_tensors import SCALES, require_weights
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.suggestions import quoted

# What GPTQ and AWQ store in place of a weight.
_PACKED = (".qweight", ".qzeros", ".weight_packed")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
# Buffers that models compute anew, and that older checkpoints hold.
_COMPUTED = (".inv_freq", ".masked_bias", ".attn.bias", ".position_ids")
_FLOATS = ("F64", "F32", "F16", "BF16")
_QUANTISED = "use the model before its quantisation"


def damaged(document: Document) -> Iterator[Finding]:
    """Weight files and configurations of local models that cannot be read."""
    seen: set[ModelReference] = set()
    for place in document.references():
        model = document.parse(place)
        if model is None or model in seen:
            continue
        seen.add(model)
        if model.lora is not None:
            folder = Path(model.lora.path)
            files = [folder / name for name in _ADAPTERS if (folder / name).exists()]
            problems = filter(None, map(checkpoint_problem, files))
            yield from (place.error(problem) for problem in problems)
        local = local_model(document, model)
        if local is None or model.model.path in document.siblings:
            continue
        if local.config_problem is not None:
            yield place.error(local.config_problem)
        elif document.kind != PYTORCH and (problem := _architectures(local)):
            yield place.error(*problem)
        if local.problem is not None:
            yield place.error(local.problem)


def _architectures(local: LocalModel) -> tuple[str, str] | None:
    names = local.config.get("architectures")
    if isinstance(names, list) and len(names) == 1:
        return None
    kind = local.config.get("model_type", "llama")
    classes = [a for a in NAME_TO_ARCH if a.lower() == f"{kind}forcausallm"]
    example = classes[0] if classes else "LlamaForCausalLM"
    several = isinstance(names, list) and len(names) > 1
    problem = "several architectures" if several else "no `architectures`"
    return (
        f"{local.path / 'config.json'} names {problem}, and mergekit needs one",
        f'write `"architectures": ["{example}"]` there, or which class it is',
    )


def quantised(document: Document) -> Iterator[Finding]:
    """Local models whose weights are quantised, or whose configuration says so."""
    dtype = document.root.get("dtype")
    for group in document.groups:
        local = _whole(document, group)
        seen: set[Path] = set()
        for source, model in local:
            if model.path in seen:
                continue
            seen.add(model.path)
            if problem := _quantised(model, local, dtype.value if dtype else None):
                yield source.place.error(*problem)
            elif model.config.get("quantization_config"):
                report = source.place.advice if model.tensors else source.place.error
                yield report(
                    f"{model.path / 'config.json'} has a `quantization_config`, and "
                    "quantised weights cannot be merged",
                    f"{_QUANTISED}, or remove the entry if its weights are not",
                )


def _quantised(
    model: LocalModel, others: list[tuple[Input, LocalModel]], dtype: str | None
) -> tuple[str, str] | None:
    """The first quantised weight of a model, in the words of a merge, and the fix."""
    tensors = model.tensors or {}
    # Integers among the floats of other models are weights.
    floats = {
        name
        for _, other in others
        for name, (_, kind) in (other.tensors or {}).items()
        if kind in _FLOATS
    }
    for name, (path, kind) in tensors.items():
        if name.endswith(_PACKED):
            return f"{path}: {name} is a quantised weight", _QUANTISED
        if kind is None or kind in _FLOATS:
            continue
        scaled = any(name + end in tensors for end in SCALES)
        stored = {f"{path}: {name}": kind + "*" * scaled}
        if name in floats:
            stored["another model"] = "F32"
        try:
            require_weights(stored, dtype)
        except PCBError as error:
            problem, verb, fix = re.split(": (use|write) ", error.message, maxsplit=1)
            return problem, f"{verb} {fix}"
    return None


def base_lacks(document: Document) -> Iterator[Finding]:
    """Tensors that the local base model lacks and another local model has."""
    spec = document.spec
    if spec is None or spec.contract.base != BasePolicy.REQUIRED:
        return
    for group in document.groups if document.kind != PYTORCH else ():
        local = {source.model: model for source, model in _whole(document, group)}
        base = local.get(group.base.model) if group.base else None
        if base is None or group.base is None or base.weights is None:
            continue
        for source in group.non_base:
            other = local.get(source.model)
            names = {
                name
                for name, more in base.weights.items()
                if other is not None
                and other.tensors is not None
                and base.tensors is not None
                and not base.tensors.keys().isdisjoint(base.weights)
                and not {name, *more}.isdisjoint(other.tensors)
                and {name, *more}.isdisjoint(base.tensors)
            }
            if names:
                yield group.base.place.error(
                    f"the base model `{group.base.model}` lacks {_some(names)}, which "
                    f"`{source.model}` has, and mergekit stops",
                    "take a base model that has the same tensors",
                )
                break


def dropped(document: Document) -> Iterator[Finding]:
    """Tensors of local models that mergekit does not know, and leaves out."""
    for group in document.groups if document.kind != PYTORCH else ():
        for source, model in _whole(document, group):
            if model.weights is None or model.tensors is None:
                continue
            known = {
                name for name, more in model.weights.items() for name in (name, *more)
            }
            names = {
                name
                for name in model.tensors.keys() - known
                if not name.endswith((*_COMPUTED, *_PACKED, *SCALES))
            }
            # A checkpoint whose names are all different is converted.
            if names and not known.isdisjoint(model.tensors):
                yield source.place.advice(
                    f"the merged model will not have {_some(names)} of "
                    f"`{source.model}`: mergekit knows no such tensors of this "
                    "architecture",
                    "copy them from one of the models if they are needed",
                )
                return


def _some(names: set[str]) -> str:
    first = sorted(names)[:2]
    more = len(names) - len(first)
    return f"{quoted(first)}" if not more else f"{quoted(first, ',')} and {more} more"


def _whole(document: Document, group: Group) -> list[tuple[Input, LocalModel]]:
    """The inputs that are on this machine and can be read."""
    found = [(source, local_model(document, source.model)) for source in group.inputs]
    return [(s, m) for s, m in found if m is not None and m.problem is None]
