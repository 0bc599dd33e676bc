"""The demo's generated languages, and which words are in which split."""

from __future__ import annotations

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
    ("domain", "answer"),
    [("sort", "aberz"), ("reverse", "arbez"), ("shift", "afcsb")],
)
def test_each_language_does_what_its_name_says(domain: str, answer: str) -> None:
    """A word is sorted, reversed, or moved on by one letter with z back to a."""
    assert Item(domain, "zebra").answer == answer


def test_a_text_is_prompt_answer_and_end() -> None:
    """What is trained on begins with what is asked and ends where to stop."""
    item = Item("sort", "cab")
    assert item.prompt == "<sort>cab="
    assert item.text == f"<sort>cab=abc{END}"


def test_the_seed_decides_the_items() -> None:
    """The same seed gives the same items, and another seed gives others."""

    def drawn(seed: int) -> tuple[list[Item], list[Item]]:
        rng = Random(seed)
        return training_items(50, rng), held_out("sort", 50, rng, "test")

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_no_word_is_in_two_splits() -> None:
    """Words to train on, to tune on and to test on are disjoint whatever the seed."""
    trained = {item.word for item in training_items(5000, Random(0))}
    tuned = {i.word for i in held_out("sort", 500, Random(1), "validation")}
    tested = {i.word for i in held_out("shift", 500, Random(2), "test")}
    assert not trained & tuned
    assert not trained & tested
    assert not tuned & tested
    assert {split_of(word) for word in trained | tuned | tested} == set(SPLITS)


def test_held_out_items_are_different_items() -> None:
    """As many different words come as were asked for, all of one domain."""
    items = held_out("reverse", 300, Random(0), "test")
    assert len(set(items)) == len(items) == 300
    assert {item.domain for item in items} == {"reverse"}


def test_a_specialist_sees_mostly_its_own_domain() -> None:
    """The share goes to the own domain, the rest to a mixture of all of them."""
    general = [item.domain for item in training_items(3000, Random(0))]
    special = [item.domain for item in training_items(3000, Random(0), "sort", 0.7)]
    only = [item.domain for item in training_items(100, Random(0), "sort")]
    assert all(0.28 < general.count(d) / 3000 < 0.38 for d in DOMAINS)
    assert 0.76 < special.count("sort") / 3000 < 0.84  # 0.7 + 0.3 / 3
    assert set(special) == set(DOMAINS)
    assert set(only) == {"sort"}


def test_the_introduction_shows_every_language() -> None:
    """Each language is explained by one solved example."""
    for domain in DOMAINS:
        item = Item(domain, "merge")
        assert f"{item.prompt}{item.answer}" in introduction()
