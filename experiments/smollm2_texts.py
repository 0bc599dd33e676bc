"""Three kinds of text, each split into training, validation and test documents."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.suites import packages

#: Swedish is a language the base model hardly knows; the two others are English.
DOMAINS = ("swedish", "dialogue", "definitions")

# Held-out text is many short extracts rather than a few long ones: neighbouring
# sentences are alike, so they say less about a domain than their number suggests.
EXTRACT_BYTES = 500
# Shorter lines ("Hey!") recur in any text of the kind and are no leak.
LEAK_LENGTH = 40


@dataclass(frozen=True)
class Split:
    """The text of one domain: no document gives to more than one part.

    Of the parts that are held out, each extract is from another document.
    """

    train: str
    validation: Sequence[str]
    test: Sequence[str]


def split_documents(
    documents: Mapping[str, str],
    *,
    train_bytes: int,
    validation_bytes: int,
    test_bytes: int,
    seed: int,
) -> Split:
    """Deal whole documents out to the three parts, in an order drawn by ``seed``.

    Raises ValueError where the documents do not suffice. A long line of held-out text
    that another document repeats word for word is left out there.
    """
    names = sorted(documents)
    random.Random(seed).shuffle(names)
    queue = [documents[name] for name in names]
    seen: set[str] = set()
    test = _take(queue, test_bytes, seen, EXTRACT_BYTES)
    validation = _take(queue, validation_bytes, seen, EXTRACT_BYTES)
    train = _take(queue, train_bytes, seen, train_bytes)
    return Split("".join(train), validation, test)


def _take(queue: list[str], size: int, seen: set[str], per_document: int) -> list[str]:
    """Take about ``size`` bytes from the queue's front, and remember their lines."""
    taken: list[list[str]] = []
    room = size
    while room > 0:
        if not queue:
            raise ValueError(f"too little text: {room} of {size} bytes are missing")
        lines = [line for line in queue.pop(0).split("\n") if line not in seen]
        extract = _first_lines(lines, min(room, per_document))
        room -= sum(len(line.encode()) + 1 for line in extract)
        taken.append(extract)
    seen.update(line for lines in taken for line in lines if len(line) >= LEAK_LENGTH)
    return ["".join(line + "\n" for line in lines) for lines in taken if lines]


def _first_lines(lines: Iterable[str], size: int) -> list[str]:
    """The lines up to and with the one that reaches ``size`` bytes."""
    kept: list[str] = []
    for line in lines:
        if size <= 0:
            break
        kept.append(line)
        size -= len(line.encode()) + 1
    return kept


def read_documents(domain: str, folder: Path) -> dict[str, str]:
    """Fetch a domain's package into ``folder`` and cut its text into documents."""
    reader = {
        "swedish": _swedish_chapters,
        "dialogue": _dialogue_episodes,
        "definitions": _definition_blocks,
    }[domain]
    return reader(folder)


def _swedish_chapters(folder: Path) -> dict[str, str]:
    path = packages.unpack(packages.QURAN, folder) / "quran_sv.json"
    chapters = json.loads(path.read_text(encoding="utf-8"))
    return {
        f"{chapter['id']:03}": "\n".join(v["translation"] for v in chapter["verses"])
        for chapter in chapters
    }


def _dialogue_episodes(folder: Path) -> dict[str, str]:
    path = packages.unpack(packages.ORANGE, folder) / "friends-transcripts.tab"
    episodes: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        next(rows), next(rows)  # Orange's second and third header: types and flags
        for row in rows:
            line = _repair_punctuation(f"{row['Author']}: {row['Quote']}")
            episodes.setdefault(row["Season & Episode"], []).append(line)
    return {name: "\n".join(lines) for name, lines in episodes.items()}


def _repair_punctuation(line: str) -> str:
    """Windows-1252 apostrophes were stored as control characters: 20,000 of them."""
    line = re.sub(
        "[\x80-\x9f]", lambda m: m[0].encode("latin-1").decode("cp1252", "ignore"), line
    )
    return " ".join(line.split())


def _definition_blocks(folder: Path) -> dict[str, str]:
    """Blocks of 50 neighbours: WordNet puts related nouns side by side."""
    path = packages.unpack(packages.WORDNET, folder) / "data.noun"
    lines = []
    for record in path.read_text(encoding="utf-8").splitlines():
        if record.startswith("  "):  # the licence, at the file's head
            continue
        fields, _, gloss = record.partition(" | ")
        word = fields.split(" ", 5)[4].replace("_", " ")
        lines.append(f"{word}: {gloss.strip()}")
    return {
        f"{start:06}": "\n".join(lines[start : start + 50])
        for start in range(0, len(lines), 50)
    }
