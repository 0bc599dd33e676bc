"""How well a merge agrees with its experts: KL(expert || merged) on their inputs."""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from mergekit_pcb.compare.evaluation import (
    TEST,
    VALIDATION,
    Score,
    Scores,
    standard_error,
)
from mergekit_pcb.compare.loading import load_model
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output.progress import Progress
from mergekit_pcb.search.mapped import mapped
from mergekit_pcb.search.model import architecture_of
from mergekit_pcb.search.texts import (
    LEAST,
    Item,
    generated,
    lines_of,
    require_beginning,
    tokenized,
    tokenizer_of,
)

GENERATED, FROM_FILE = 16, 64
"""Inputs of each expert, where the user does not say how many."""

_GENERATED_TOKENS, _CAUSAL_TOKENS, _CLASSIFIER_TOKENS = 64, 64, 256
# Logits of a batch: 64 MB.
_LOGITS = 1 << 24
METRIC = {True: "KL in bits per byte", False: "KL in bits"}


@dataclass
class Agreement:
    """Scores by agreement with the experts, forward passes only.

    Attributes:
        base: folder of the base model, which gives the tokenizer.
        experts: gives the folder of each expert, by short name.
        files: inputs by name of the expert; experts without generate theirs.
        count: of inputs an expert; 0 for the usual number.
        seed: of what is drawn.
        device: to compute on.
        scratch: a folder for the experts' log-probabilities.
        splits: whether to choose by half of the inputs and show the others.
        trust_remote_code: as for mergekit.
    """

    leaves_weights = True

    base: Path
    experts: Mapping[str, Callable[[], Path]]
    files: Mapping[str, Path]
    count: int
    seed: int
    device: str
    scratch: Path
    splits: bool = False
    trust_remote_code: bool = False
    _tokenizer: Any = None
    _items: dict[str, list[Item]] = field(default_factory=dict)
    _expected: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the files.

        Raises:
            PCBError: a model has no logits to compare, or no inputs.
        """
        kind = architecture_of(self.base)
        self.causal = kind.endswith(("ForCausalLM", "LMHeadModel"))
        if not self.causal and not kind.endswith("ForSequenceClassification"):
            raise PCBError(
                f"agreement is for causal language models and sequence classification, "
                f"and the base is a {kind or 'model without an architecture'}: give "
                "--evaluate MODULE:FUNCTION"
            )
        without = [name for name in self.experts if name not in self.files]
        if without and not self.causal:
            raise PCBError(
                f"no inputs for {', '.join(without)}: a classifier cannot generate "
                "any; give --inputs NAME=FILE for each model"
            )
        self._lines = {
            name: lines_of(file, self.count or FROM_FILE, self.seed)
            for name, file in self.files.items()
        }
        self.can_tune_weights = not without
        unit = METRIC[self.causal]
        origin = "inputs of its own" if not without else "texts that it generated"
        if without and self.files:
            origin = f"inputs of its own ({', '.join(without)}: texts it generated)"
        self.what = f"{unit} from each expert, on {origin}"
        self.how_chosen = "inputs 0, 2, 4, … chose, inputs 1, 3, 5, … are shown"

    def inputs(self) -> dict[str, int]:
        """How many inputs each expert has."""
        return {
            name: len(self._lines.get(name, ())) or self.count or GENERATED
            for name in self.experts
        }

    def room(self) -> int:
        """Bytes of the experts' log-probabilities, about."""
        import transformers

        config = transformers.AutoConfig.from_pretrained(
            self.base, trust_remote_code=self.trust_remote_code
        )
        if not self.causal:
            return sum(self.inputs().values()) * int(config.num_labels) * 4
        return sum(self.inputs().values()) * _CAUSAL_TOKENS * _vocabulary(config) * 4

    def identity(self, part: str) -> Any:
        """What was drawn from the files, or how texts are generated."""
        lines = {
            name: hashlib.sha256("\n".join(lines).encode()).hexdigest()
            for name, lines in self._lines.items()
        }
        drawn = [self.seed, self.count or GENERATED, _GENERATED_TOKENS]
        return ["agreement", self.device, lines, drawn, part]

    def __call__(self, model: Any, part: str, progress: Progress) -> Scores:
        """Score a model in memory."""
        if not self._expected:
            self._ask_experts()
        scores = {}
        for number, name in enumerate(self.experts):
            items, expected = self._part(name, part)
            found = []
            for batch, logits in _logits(model, items, self.causal):
                for i, own in zip(batch, logits, strict=True):
                    found.append((i, _divergence(expected[i], own)))
                progress(100 * (number + len(found) / len(items)) / len(self.experts))
            bits = [kl / math.log(2) for _, kl in sorted(found)]
            scores[name] = _score(bits, items, METRIC[self.causal])
        return scores

    def _part(self, name: str, part: str) -> tuple[list[Item], list[torch.Tensor]]:
        chosen = {VALIDATION: slice(0, None, 2), TEST: slice(1, None, 2)}
        span = chosen.get(part, slice(None))
        return self._items[name][span], self._expected[name][span]

    def prepare(self) -> None:
        """Look at every expert and all inputs, before the first candidate is made.

        Raises:
            PCBError: the logits of an expert are about other tokens or labels, it has
                too few inputs, or it cannot generate any.
        """
        import transformers

        if self._tokenizer is not None:
            return
        tokenizer = self._tokenizer_of(self.base)
        length = _CAUSAL_TOKENS if self.causal else _CLASSIFIER_TOKENS
        own = transformers.AutoConfig.from_pretrained(
            self.base, trust_remote_code=self.trust_remote_code
        )
        for name, find in self.experts.items():
            self._require_alike(find(), name, own, tokenizer)
            if name not in self._lines:
                require_beginning(tokenizer)
                continue
            lines = self._lines[name]
            items = tokenized(lines, tokenizer, length, causal=self.causal)
            if len(items) < LEAST:
                raise PCBError(
                    f"{self.files[name]}: {len(items)} of {len(lines)} inputs have two "
                    f"tokens or more, and {LEAST} are needed at least: give longer ones"
                )
            self._items[name] = items
        self._tokenizer = tokenizer

    def _tokenizer_of(self, folder: Path) -> Any:
        return tokenizer_of(folder, trust_remote_code=self.trust_remote_code)

    def _require_alike(
        self, folder: Path, name: str, base: Any, tokenizer: Any
    ) -> None:
        """Refuse an expert whose logits mean something else than the merge's.

        Args:
            folder: of the expert.
            name: of the expert.
            base: configuration of the base.
            tokenizer: of the base.
        """
        import transformers

        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=self.trust_remote_code
        )
        own, usual = _vocabulary(config), _vocabulary(base)
        otherwise = "agreement compares the same tokens; give --tasks or --evaluate"
        if own != usual:
            raise PCBError(f"{name} has {own} tokens and the base {usual}: {otherwise}")
        if (folder / "tokenizer_config.json").exists():
            # Tokens that only one of them has are no obstacle: no text of the base's
            # tokenizer has one of the expert's.
            ids, known = self._tokenizer_of(folder).get_vocab(), tokenizer.get_vocab()
            common = ids.keys() & known.keys()
            moved = sum(ids[token] != known[token] for token in common)
            if moved:
                raise PCBError(
                    f"{moved} of {len(common)} tokens have another number in {name} "
                    f"than in the base: {otherwise}"
                )
        if not self.causal and config.id2label != base.id2label:
            raise PCBError(
                f"the head of {name} has other labels than the base's: agreement "
                "compares the same labels; give --evaluate"
            )

    def _ask_experts(self) -> None:
        """Get the inputs of every expert and its log-probabilities there, once."""
        self.prepare()
        expected: dict[str, list[torch.Tensor]] = {}
        for name, find in self.experts.items():
            model = load_model(
                find(), self.device, trust_remote_code=self.trust_remote_code
            )
            if name not in self._items:
                self._items[name] = generated(
                    model,
                    self._tokenizer,
                    self.count or GENERATED,
                    _GENERATED_TOKENS,
                    self.seed,
                )
            file = self.scratch / f"expert{len(expected)}.f32"
            expected[name] = self._kept(name, model, self._items[name], file)
            del model
            gc.collect()
        # All or nothing: a candidate after one that failed here asks again.
        self._expected = expected

    def _kept(
        self, name: str, model: Any, items: Sequence[Item], file: Path
    ) -> list[torch.Tensor]:
        """The log-probabilities of an expert, in a file mapped into memory.

        Float32, because they are subtracted from nearly equal ones.
        """
        kept: list[torch.Tensor] = []
        numbers: torch.Tensor | None = None
        place = 0
        order = []
        for batch, logits in _logits(model, items, self.causal):
            for i, own in zip(batch, logits, strict=True):
                if numbers is None:
                    count = sum(item.positions for item in items) * own.shape[-1]
                    numbers = mapped(file, count)
                row = numbers[place : place + own.numel()].view_as(own)
                place += own.numel()
                row.copy_(own.log_softmax(-1))
                order.append(i)
                kept.append(row)
        if numbers is None or not numbers[:place].isfinite().all():
            raise PCBError(f"{name} gives NaN on its own inputs: check its weights")
        return [row for _, row in sorted(zip(order, kept, strict=True), key=_first)]


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def _logits(
    model: Any, items: Sequence[Item], causal: bool
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Indices of items of one length, and their (items, positions, vocabulary) logits.

    Nothing is padded, so an item's logits do not depend on the others.
    """

    def shape(i: int) -> tuple[int, int]:
        return len(items[i].ids), items[i].first

    for (length, first), members in groupby(
        sorted(range(len(items)), key=shape), shape
    ):
        found = list(members)
        # Classifiers without a padding token take one input at a time.
        step = 1
        if causal:
            step = min(max(_LOGITS // (length * _vocabulary(model.config)), 1), 8)
        for start in range(0, len(found), step):
            batch = found[start : start + step]
            ids = torch.tensor([items[i].ids for i in batch], device=model.device)
            with torch.inference_mode():
                output = model(ids, attention_mask=torch.ones_like(ids))
            logits = output.logits.float().cpu()
            # Logits at a token are about the next one.
            yield batch, logits[:, first - 1 : -1] if causal else logits[:, None]


def _divergence(expected: torch.Tensor, logits: torch.Tensor) -> float:
    """KL in nats, summed over positions, of log-probabilities and logits."""
    with torch.inference_mode():
        own = logits.log_softmax(-1)
        each = (expected.exp() * (expected - own)).sum(-1)
        # It is not negative; its rounding errors may be.
        return max(float(each.double().sum()), 0.0)


def _score(bits: Sequence[float], items: Sequence[Item], metric: str) -> Score:
    """Bits per byte, and items whose mean it is: those of the tangent of the ratio."""
    total = sum(item.size for item in items)
    value = sum(bits) / total
    unit = len(items) / total
    each = [
        value + unit * (own - value * item.size)
        for own, item in zip(bits, items, strict=True)
    ]
    return Score(value, metric, False, standard_error(each), each)


def _vocabulary(config: Any) -> int:
    return int(config.get_text_config().vocab_size)
