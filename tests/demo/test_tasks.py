"""The demo's generated languages, and which words are in which split."""

from __future__ import annotations

import re
from random import Random

import pytest

from mergekit_pcb.demo.command import introduction
from mergekit_pcb.demo.tasks import (
    DOMAINS,
    END,
    SPLITS,
    Item,
    held_out,
    split_of,
    training_items,
)


@pytest.mark.parametrize(
    ("domain", "word", "answer"),
    [
        ("first-am", "gcel", "c"),
        ("last-nz", "pzon", "z"),
        ("first-NZ", "TQSZ", "Q"),
        ("last-AM", "CALF", "L"),
    ],
)
def test_each_language_does_what_its_name_says(
    domain: str, word: str, answer: str
) -> None:
    """The answer is the letter that is first, or last, in the alphabet."""
    assert Item(domain, word).answer == answer


def test_languages_share_no_letter_and_have_rare_ones() -> None:
    """A specialist has letters to learn that no other language has."""
    alphabets = [language.letters for language in DOMAINS.values()]
    assert len(set("".join(alphabets))) == sum(map(len, alphabets)) == 52
    assert all(set(d.common) < set(d.letters) for d in DOMAINS.values())
    assert len({name.lower() for name in DOMAINS}) == len(DOMAINS)


def test_a_text_is_prompt_answer_and_end() -> None:
    """What is trained on begins with what is asked and ends where to stop."""
    item = Item("first-am", "cabg")
    assert item.prompt == "<first-am>cabg="
    assert item.text == f"<first-am>cabg=a{END}"


def test_the_seed_decides_the_items() -> None:
    """The same seed gives the same items, and another seed gives others."""

    def drawn(seed: int) -> tuple[list[Item], list[Item]]:
        rng = Random(seed)
        return training_items(50, rng), held_out("first-am", 50, rng, "test")

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_no_word_is_in_two_splits() -> None:
    """Words to train on, to tune on and to test on are disjoint whatever the seed."""
    trained = {item.word for item in training_items(5000, Random(0))}
    tuned = {i.word for i in held_out("first-am", 500, Random(1), "validation")}
    tested = {i.word for i in held_out("first-am", 500, Random(2), "test")}
    assert not trained & tuned
    assert not trained & tested
    assert not tuned & tested
    assert {split_of(word) for word in trained | tuned | tested} == set(SPLITS)


def test_held_out_items_are_different_items() -> None:
    """As many different words come as were asked for, all of one domain."""
    items = held_out("last-nz", 300, Random(0), "test")
    assert len(set(items)) == len(items) == 300
    assert {item.domain for item in items} == {"last-nz"}


def test_a_specialist_sees_mostly_its_own_domain() -> None:
    """The share goes to the own domain, the rest to a mixture of all of them."""
    name = "first-am"
    general = [item.domain for item in training_items(3000, Random(0))]
    special = [item.domain for item in training_items(3000, Random(0), name, 0.7)]
    only = [item.domain for item in training_items(100, Random(0), name)]
    assert all(0.2 < general.count(d) / 3000 < 0.3 for d in DOMAINS)
    assert 0.74 < special.count(name) / 3000 < 0.81  # 0.7 + 0.3 / 4
    assert set(special) == set(DOMAINS)
    assert set(only) == {name}


def test_rare_letters_are_rare_in_the_mixture_only() -> None:
    """Nine words in ten of the mixture have common letters; others have all alike."""

    def common(items: list[Item]) -> float:
        return sum(set(i.word) <= set(DOMAINS[i.domain].common) for i in items) / 3000

    assert 0.88 < common(training_items(3000, Random(0))) < 0.93
    assert common(training_items(3000, Random(0), "last-AM")) < 0.05
    assert common(held_out("last-AM", 500, Random(0), "test")) < 0.05


def test_the_introduction_shows_every_language() -> None:
    """Each language is explained by one solved example."""
    shown = dict(re.findall(r"<(.+)>(\w+=\w)", introduction()))
    assert list(shown) == list(DOMAINS)
    for domain, example in shown.items():
        word, answer = example.split("=")
        assert Item(domain, word).answer == answer
