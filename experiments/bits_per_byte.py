"""How well a language model predicts a text, in bits per byte of UTF-8.

Bits per byte compares texts in different languages, and does not depend on how the
tokenizer cuts them: a foreign language has more tokens, but the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def windows(
    tokens: Sequence[int], length: int, start: int
) -> list[tuple[list[int], list[int]]]:
    """Cut a text into (inputs, targets) so that each token is a target exactly once.

    ``start`` stands before the first token; every later window begins with the token
    that ends the window before it, so nothing is predicted from nothing.
    """
    padded = [start, *tokens[:-1]]
    return [
        (padded[i : i + length], list(tokens[i : i + length]))
        for i in range(0, len(tokens), length)
    ]


def target_bits(logits: Tensor, targets: Tensor) -> float:
    """Bits it takes to say the targets under the distributions of ``logits``."""
    nats = cross_entropy(logits.float(), targets, reduction="sum").item()
    return nats / math.log(2)


def window_bits(
    model: Any, tokens: Sequence[int], length: int, start: int, batch: int = 8
) -> list[float]:
    """Bits for each window of a text under a causal language model of transformers."""
    cut = windows(tokens, length, start)
    bits: list[float] = []
    with torch.inference_mode():
        # Only windows of one length fit into one batch, and the last may be shorter.
        for _, alike in groupby(cut, key=lambda window: len(window[0])):
            inputs, targets = map(torch.tensor, zip(*alike, strict=True))
            for some, theirs in zip(
                inputs.split(batch), targets.split(batch), strict=True
            ):
                hidden = model.base_model(input_ids=some)[0]
                # Window by window: the logits of one are 25 MB already.
                bits += map(target_bits, map(model.lm_head, hidden), theirs)
    return bits
