"""Three generated languages that a tiny model learns in seconds."""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

_LETTERS = string.ascii_lowercase
_NEXT_LETTER = str.maketrans(_LETTERS, _LETTERS[1:] + _LETTERS[0])

DOMAINS: dict[str, Callable[[str], str]] = {
    "sort": lambda word: "".join(sorted(word)),
    "reverse": lambda word: word[::-1],
    "shift": lambda word: word.translate(_NEXT_LETTER),
}
"""What each language does to a word."""

WORD_LENGTHS = range(4, 9)
SPLITS = ("train", "validation", "test")
ITEMS = {"test": 500, "validation": 200}
"""Held-out items of each domain."""

MARKERS = [f"<{domain}>" for domain in DOMAINS]
EQUALS, END = "=", "<end>"


class Item(NamedTuple):
    """One word of one language."""

    domain: str
    word: str

    @property
    def answer(self) -> str:
        """What the language makes of the word."""
        return DOMAINS[self.domain](self.word)

    @property
    def prompt(self) -> str:
        """What a model reads."""
        return f"<{self.domain}>{self.word}{EQUALS}"

    @property
    def text(self) -> str:
        """What a model is trained on: prompt, answer and end."""
        return f"{self.prompt}{self.answer}{END}"


def split_of(word: str) -> str:
    """Return the split a word belongs to, in every language and for every seed.

    The word itself decides, so that no model, whatever it was trained on and with
    which seed, has met a word it is tested on.
    """
    return {0: "validation", 1: "test"}.get(zlib.crc32(word.encode()) % 8, "train")


def words(rng: Random, split: str) -> Iterator[str]:
    """Yield random words of a split, without end."""
    while True:
        length = rng.choice(WORD_LENGTHS)
        word = "".join(rng.choices(_LETTERS, k=length))
        if split_of(word) == split:
            yield word


def held_out(domain: str, count: int, rng: Random, split: str) -> list[Item]:
    """Return ``count`` different items of a domain."""
    chosen: dict[str, None] = {}
    source = words(rng, split)
    while len(chosen) < count:
        chosen.setdefault(next(source))
    return [Item(domain, word) for word in chosen]


def training_items(
    count: int, rng: Random, domain: str | None = None, share: float = 1.0
) -> list[Item]:
    """Return items of all domains alike, or a ``share`` of them of one ``domain``.

    Args:
        count: how many items.
        rng: where the randomness comes from.
        domain: the domain to specialise in; None for a general mixture.
        share: probability that an item is of ``domain`` rather than of the mixture.
    """
    names = list(DOMAINS)
    source = words(rng, "train")
    return [
        Item(
            domain if domain and rng.random() < share else rng.choice(names),
            next(source),
        )
        for _ in range(count)
    ]
