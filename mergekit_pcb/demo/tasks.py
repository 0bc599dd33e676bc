"""Four generated languages that a tiny model learns in seconds."""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

_LOWER, _UPPER = string.ascii_lowercase, string.ascii_uppercase


class Language(NamedTuple):
    """An alphabet of its own, and one question about a word.

    Attributes:
        letters: its alphabet, in order.
        common: the letters of the words that a general mixture mostly has.
        pick: gives the answer, one letter of the word.
    """

    letters: str
    common: str
    pick: Callable[[Sequence[str]], str]


# Every language has letters of its own, as domains of text have words of their own. A
# base that knows the questions and the common letters leaves its specialists the rare
# letters to learn: something real, and something that does not contradict the others.
DOMAINS = {
    "first-am": Language(_LOWER[:13], "cegikm", min),
    "last-nz": Language(_LOWER[13:], "nprtvx", max),
    "first-NZ": Language(_UPPER[13:], "OQSUWY", min),
    "last-AM": Language(_UPPER[:13], "ACEGIK", max),
}
"""Which letter of a word comes first, or last, in the alphabet.

No two names differ in case only: there are file systems where that is one name.
"""

WORD_LENGTH = 4
SPLITS = ("train", "validation", "test")
ITEMS = {"test": 500, "validation": 200}
"""Held-out items of each domain."""
COMMON_SHARE = 0.9
"""Probability that a word of the general mixture has common letters only."""

MARKERS = [f"<{domain}>" for domain in DOMAINS]
EQUALS, END = "=", "<end>"


class Item(NamedTuple):
    """One word of one language."""

    domain: str
    word: str

    @property
    def answer(self) -> str:
        """The letter that is asked for."""
        return DOMAINS[self.domain].pick(self.word)

    @property
    def prompt(self) -> str:
        """What a model reads."""
        return f"<{self.domain}>{self.word}{EQUALS}"

    @property
    def text(self) -> str:
        """What a model is trained on: prompt, answer and end."""
        return f"{self.prompt}{self.answer}{END}"


def split_of(word: str) -> str:
    """Return the split a word belongs to, for every seed.

    The word itself decides, so that no model, whatever it was trained on and with
    which seed, has met a word it is tested on.
    """
    return {0: "validation", 1: "test"}.get(zlib.crc32(word.encode()) % 8, "train")


def words(letters: str, rng: Random, split: str) -> Iterator[str]:
    """Yield random words of a split, without end; no word has a letter twice."""
    while True:
        word = "".join(rng.sample(letters, WORD_LENGTH))
        if split_of(word) == split:
            yield word


def held_out(domain: str, count: int, rng: Random, split: str) -> list[Item]:
    """Return ``count`` different items of a domain, of common and rare letters."""
    chosen: dict[str, None] = {}
    source = words(DOMAINS[domain].letters, rng, split)
    while len(chosen) < count:
        chosen.setdefault(next(source))
    return [Item(domain, word) for word in chosen]


def training_items(
    count: int, rng: Random, domain: str | None = None, share: float = 1.0
) -> list[Item]:
    """Return items of a general mixture, or a ``share`` of them of one ``domain``.

    The mixture has all domains alike, and mostly their common letters.

    Args:
        count: how many items.
        rng: where the randomness comes from.
        domain: the domain to specialise in, with all its letters; None for the mixture.
        share: probability that an item is of ``domain`` rather than of the mixture.
    """
    names = list(DOMAINS)
    items = []
    for _ in range(count):
        if domain and rng.random() < share:
            name, letters = domain, DOMAINS[domain].letters
        else:
            name = rng.choice(names)
            common = rng.random() < COMMON_SHARE
            letters = DOMAINS[name].common if common else DOMAINS[name].letters
        items.append(Item(name, next(words(letters, rng, "train"))))
    return items
