"""Inputs on which expert and merge are compared: from files, or made by the expert."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mergekit_pcb.atomic_files import read_small_file
from mergekit_pcb.errors import PCBError
from mergekit_pcb.printable import printable

LEAST = 4
"""Inputs of each expert without which a choice would be chance."""

SKIPPED = 16
"""Tokens at the beginning of a text made by an expert that are not counted.

There the models differ most, whatever the candidate: it is where a text chooses what
it is about.
"""

_MOST_BYTES = 100_000_000
# Texts generated at a time.
_BATCH = 8


@dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
        ids: its tokens.
        first: the first token whose prediction counts; of classifiers 0.
        size: bytes of the tokens that count; of classifiers 1.
    """

    ids: tuple[int, ...]
    first: int
    size: int

    @property
    def positions(self) -> int:
        """How many predictions count."""
        return len(self.ids) - self.first if self.first else 1


def lines_of(file: Path, count: int, seed: int) -> list[str]:
    """Some of the inputs in a file.

    Args:
        file: text, an input a line; or JSON lines, ``*.jsonl``, with the key ``text``.
        count: how many at most, drawn by ``seed``.
        seed: of the draw.

    Raises:
        PCBError: the file cannot be read, or has too few inputs.
    """
    content = read_small_file(file, _MOST_BYTES)
    try:
        # Not `splitlines`: other separators are characters of a text.
        lines = re.split("\r\n|\r|\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PCBError(f"{file} is not UTF-8 text: save it as UTF-8") from error
    lines = [line.strip() for line in lines]
    if file.suffix == ".jsonl":
        lines = [_text_of(line, file) for line in lines if line]
    lines = list(dict.fromkeys(line for line in lines if line))
    if len(lines) < LEAST:
        raise PCBError(
            f"{file} has {len(lines)} different lines that are not empty; an input is "
            f"a line, and {LEAST} are needed at least"
        )
    draw = random.Random(seed)  # noqa: S311 - no secret
    return draw.sample(lines, min(count, len(lines)))


def _text_of(line: str, file: Path) -> str:
    try:
        return str(json.loads(line)["text"]).strip()
    except (ValueError, KeyError, TypeError) as error:
        shown = printable(line[:40])
        raise PCBError(f'{file}: `{shown}` is no JSON object with "text"') from error


def tokenizer_of(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model.

    Raises:
        PCBError: there is none that can be loaded.
    """
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise PCBError(
            f"{folder} has no tokenizer that transformers can load, which agreement "
            "needs: copy it from the original model, or give --evaluate"
        ) from error


def tokenized(
    lines: Sequence[str], tokenizer: Any, length: int, *, causal: bool
) -> list[Item]:
    """Inputs of so many tokens at most; those too short to predict one are left out."""
    items = []
    for line in lines:
        ids = tokenizer(line, truncation=True, max_length=length).input_ids
        if not causal:
            items.append(Item(tuple(ids), 0, 1))
            continue
        start = _beginning(tokenizer)
        if start is not None and ids[:1] != [start]:
            ids = [start, *ids][:length]
        if len(ids) > 1:
            items.append(Item(tuple(ids), 1, _bytes(tokenizer, ids, 1)))
    return items


def generated(
    model: Any, tokenizer: Any, count: int, length: int, seed: int
) -> list[Item]:
    """Texts that a causal language model draws from the beginning, at temperature 1.

    Args:
        model: draws them.
        tokenizer: of the model.
        count: of texts.
        length: tokens of each; the first `SKIPPED` do not count.
        seed: of the draw.

    Raises:
        PCBError: the tokenizer has no token that begins a text.
    """
    start = require_beginning(tokenizer)
    items = []
    devices = [model.device] if model.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(),
        _drawing_as_it_predicts(model, length, start),
    ):
        torch.manual_seed(seed)
        for done in range(0, count, _BATCH):
            prompt = torch.full((min(_BATCH, count - done), 1), start)
            drawn = model.generate(
                prompt.to(model.device),
                attention_mask=torch.ones_like(prompt).to(model.device),
            )
            for row in drawn.tolist():
                first = SKIPPED + 1
                items.append(Item(tuple(row), first, _bytes(tokenizer, row, first)))
    return items


@contextmanager
def _drawing_as_it_predicts(model: Any, length: int, pad: int) -> Iterator[None]:
    """Let a model draw tokens by its predictions alone, so many.

    Its own configuration may say more, such as a penalty for repetitions, and what
    `generate` is given is completed from that.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        # All of one length: the end of a text is not drawn.
        min_new_tokens=length,
        max_new_tokens=length,
        eos_token_id=own.eos_token_id,
        pad_token_id=pad,
    )
    try:
        yield
    finally:
        model.generation_config = own


def require_beginning(tokenizer: Any) -> int:
    """The token that begins a text.

    Raises:
        PCBError: there is none.
    """
    start = _beginning(tokenizer)
    if start is None:
        raise PCBError(
            "the tokenizer has no token for the beginning of a text, from which models "
            "could generate: give --inputs NAME=FILE for each model"
        )
    return start


def _beginning(tokenizer: Any) -> int | None:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return None


def _bytes(tokenizer: Any, ids: Sequence[int], first: int) -> int:
    """Bytes of the text from a token on; at least one."""
    whole, head = (
        len(tokenizer.decode(part, clean_up_tokenization_spaces=False).encode())
        for part in (ids, ids[:first])
    )
    return max(whole - head, 1)
