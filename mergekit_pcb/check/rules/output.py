"""Settings of the merged model: tokenizer, chat template, number format."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from mergekit._data import chat_templates
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration

from mergekit_pcb.check.rules.document import PYTORCH, Document
from mergekit_pcb.recipes.findings import Finding
from mergekit_pcb.suggestions import did_you_mean, quoted

_NUMBER_FORMATS = ("bfloat16", "float16", "float32", "float64")
_ONE_OF_THESE = f"choose {quoted(_NUMBER_FORMATS, 'or')}"
_SHORT = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "fp64": "float64",
    "double": "float64",
}


def wrong_dtypes(document: Document) -> Iterator[Finding]:
    """Number formats that mergekit does not know, or that hold no fractions."""
    for key in ("dtype", "out_dtype"):
        place = document.root.get(key)
        if place is None or not isinstance(place.value, str):
            continue
        try:
            dtype = dtype_from_name(place.value)
        except RuntimeError:
            meant = _SHORT.get(place.value.lower().removeprefix("torch."))
            near = did_you_mean(place.value, _NUMBER_FORMATS)
            fix = f"write `{meant}`" if meant else near or _ONE_OF_THESE
            yield place.error(f"mergekit knows no `{key}: {place.value}`", fix)
            continue
        if dtype is not None and not dtype.is_floating_point:
            yield place.error(
                f"`{key}: {place.value}` rounds weights to whole numbers",
                _ONE_OF_THESE,
            )


def wrong_tokenizers(document: Document) -> Iterator[Finding]:
    """Tokenizer settings that contradict each other, or are read as something else."""
    if document.kind == PYTORCH:
        return
    source = document.root.get("tokenizer_source")
    tokenizer = document.root.get("tokenizer")
    if source is not None and tokenizer is not None:
        yield document.root.keys["tokenizer"].error(
            "`tokenizer` and `tokenizer_source` exclude each other",
            "keep `tokenizer: {source: …}` and remove `tokenizer_source`",
        )
    if tokenizer is not None and isinstance(tokenizer.value, str):
        yield tokenizer.error(
            f"`tokenizer` takes `key: value` lines, got {tokenizer.value!r}",
            f"write `tokenizer_source: {tokenizer.value}`",
        )
    chosen = document.tokenizer
    if chosen is None or not isinstance(chosen.value, str):
        return
    kinds = get_args(MergeConfiguration.model_fields["tokenizer_source"].annotation)
    words = [w for kind in kinds if get_origin(kind) is Literal for w in get_args(kind)]
    if chosen.value not in words and chosen.value.lower() in words:
        yield chosen.error(
            f"`{chosen.value}` is taken for the name of a model",
            f"write `{chosen.value.lower()}`",
        )
    elif chosen.value == "base" and document.root.get("base_model") is None:
        yield chosen.advice(
            "without `base_model`, mergekit takes any of the models for the base",
            "name the model whose tokenizer is wanted",
        )


def wrong_chat_template(document: Document) -> Iterator[Finding]:
    """A chat template that mergekit would refuse after the whole merge."""
    place = document.root.get("chat_template")
    if document.kind == PYTORCH or place is None or not isinstance(place.value, str):
        return
    files = [f.name for f in importlib.resources.files(chat_templates).iterdir()]
    names = sorted(f[: -len(".jinja")] for f in files if f.endswith(".jinja"))
    text, known = place.value, ["auto", *names]
    if text and text not in known and (len(text) < 20 or "{" not in text):
        yield place.error(
            f"there is no chat template `{text}`, and mergekit finds out last",
            did_you_mean(text, known) or f"choose {quoted(known)} or write Jinja",
        )
