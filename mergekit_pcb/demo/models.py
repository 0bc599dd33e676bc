"""The demo's tiny Llama: building, training, and testing it on generated words."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from mergekit_pcb.compare.evaluation import Score
from mergekit_pcb.demo.tasks import (
    DOMAINS,
    END,
    EQUALS,
    ITEMS,
    MARKERS,
    Item,
    held_out,
    training_items,
)
from mergekit_pcb.output.atomic import complete_or_absent
from mergekit_pcb.output.progress import Progress

BATCH = 32
# The base has seen a little of everything. A specialist goes on from there with small
# steps and a little of the old mixture: models that drift far apart do not merge.
BASE_STEPS, BASE_RATE = 160, 3e-3
SPECIALIST_STEPS, SPECIALIST_RATE, OWN_SHARE = 50, 1e-3, 0.9

_PAD = "<pad>"
_IGNORED = -100


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seed torch and keep it to one thread, and give the caller's state back.

    Matrices this small gain little from a second thread, lose minutes to it when the
    machine is busy, and round differently with every number of threads.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of letters and a few special tokens."""
    special = [_PAD, END, *MARKERS]
    tokens = [*special, EQUALS, *string.ascii_letters]
    letters = Tokenizer(WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=_PAD))
    letters.pre_tokenizer = Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=letters,
        pad_token=_PAD,
        eos_token=END,
        extra_special_tokens=MARKERS,
        model_input_names=["input_ids", "attention_mask"],
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained model of two layers."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    peak_rate: float,
    progress: Progress,
) -> None:
    """Train a model, in place, on the answers of ``items``, each seen once.

    There must be a whole number of batches.
    """
    inputs, labels = (torch.split(each, BATCH) for each in encode(tokenizer, items))
    optimizer = torch.optim.AdamW(model.parameters(), peak_rate, betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, 20, len(inputs))
    for step, (batch, targets) in enumerate(zip(inputs, labels, strict=True), start=1):
        model(input_ids=batch, labels=targets, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(100 * step / len(inputs))


def train_all(folder: Path, rng: Random, open_bar: Callable[[str], Progress]) -> None:
    """Train the base and, from it, a specialist per domain.

    Args:
        folder: where each becomes a Hugging Face folder, named ``base`` or after its
            domain.
        rng: where the training items come from.
        open_bar: opens a progress bar for a step.
    """
    tokenizer = new_tokenizer()
    base = new_model(tokenizer)
    for name in ("base", *DOMAINS):
        if name == "base":
            model, rate = base, BASE_RATE
            items = training_items(BASE_STEPS * BATCH, rng)
        else:
            model, rate = deepcopy(base), SPECIALIST_RATE
            items = training_items(SPECIALIST_STEPS * BATCH, rng, name, OWN_SHARE)
        train(model, tokenizer, items, rate, open_bar(f"training {name}"))
        with complete_or_absent(folder / name) as unfinished:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)


@dataclass
class Accuracy:
    """How many held-out words of each language a model answers; for `compare`."""

    what = "Percent of held-out words answered without a mistake"
    how_chosen = "validation words chose, test words are shown"
    splits = True
    can_rank = True

    seed: int

    def identity(self, part: str) -> Any:
        """The seed and the split."""
        return ["accuracy", self.seed, _split(part)]

    def __call__(self, model: Path, part: str, progress: Progress) -> dict[str, Score]:
        """Score the model in a folder on the items of one split."""
        inputs, labels = _held_out(self.seed, _split(part))
        loaded = AutoModelForCausalLM.from_pretrained(model)
        right = 100 * answered(loaded, inputs, labels).double()
        scores = {}
        for domain, its in zip(DOMAINS, right.chunk(len(DOMAINS)), strict=True):
            error = its.std().item() / math.sqrt(len(its))
            scores[domain] = Score(its.mean().item(), domain, True, error, its.tolist())
        progress(100)
        return scores


# Dozens of models answer the same words, and drawing words costs as much as answering.
@lru_cache(maxsize=2)
def _held_out(seed: int, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The items of a split, domain by domain, as `encode` gives them."""
    rng = Random(f"{seed} {split}")  # noqa: S311 - no secret
    items = [i for d in DOMAINS for i in held_out(d, ITEMS[split], rng, split)]
    return encode(new_tokenizer(), items)


def _split(part: str) -> str:
    # Where nothing is chosen, all items are asked for: those of the test are shown.
    return part if part == "validation" else "test"


def answered(
    model: PreTrainedModel, inputs: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Whether the model would write the whole answer, for each item; ``(items,)``.

    Args:
        model: any causal language model.
        inputs: token ids, ``(items, tokens)``.
        labels: the ids of the answers, and -100 elsewhere, ``(items, tokens)``.
    """
    with torch.inference_mode():
        logits = model(input_ids=inputs, use_cache=False).logits
    # Greedy decoding writes the answer if and only if every token of it is the most
    # likely one after the right beginning, so one pass is enough.
    expected = labels[:, 1:]
    right: torch.Tensor = logits[:, :-1].argmax(-1) == expected
    return (right | (expected == _IGNORED)).all(dim=1)


def encode(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The token ids of the items' texts, and the labels of their answers.

    Both are ``(items, tokens)``; a label that is no part of an answer is -100.
    """
    texts = [item.text for item in items]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    equals = inputs == tokenizer.convert_tokens_to_ids(EQUALS)
    answer = equals.cumsum(1).bool() & ~equals & (inputs != tokenizer.pad_token_id)
    return inputs, inputs.masked_fill(~answer, _IGNORED)
