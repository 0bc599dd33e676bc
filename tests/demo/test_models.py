"""The demo's tiny models: what they read, repeat and score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mergekit_pcb.demo.models import (
    Accuracy,
    answered,
    encode,
    new_model,
    new_tokenizer,
    repeatable,
)
from mergekit_pcb.demo.tasks import DOMAINS, ITEMS, Item, training_items


def test_the_tokenizer_knows_every_letter() -> None:
    """A text is one token a letter and comes back unchanged, so it can be learnt."""
    tokenizer = new_tokenizer()
    for item in training_items(50, Random(0)):
        tokens = tokenizer(item.text)["input_ids"]
        assert len(tokens) == 1 + len(item.word) + 1 + len(item.answer) + 1
        assert tokenizer.pad_token_id not in tokens
        assert tokenizer.decode(tokens).replace(" ", "") == item.text


class Parrot:
    """A model that expects what it is shown next, with some letters taken wrongly."""

    def __init__(self, size: int, wrong_at: Sequence[int] = ()) -> None:
        self.size, self.wrong_at = size, wrong_at

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        following = input_ids.roll(-1, dims=1)
        for position in self.wrong_at:
            following[:, position] += 1
        one_hot = torch.nn.functional.one_hot(following % self.size, self.size)
        return SimpleNamespace(logits=one_hot.float())


@pytest.mark.parametrize(
    ("wrong_at", "expected"),
    [
        ((), [True, True]),
        ((0, 1, 2, 3, 4), [True, True]),
        ((5,), [False, False]),
        ((6,), [False, False]),
        ((7,), [True, True]),
    ],
    ids=["perfect", "word", "answer", "end", "after the end"],
)
def test_an_item_counts_when_its_whole_answer_is_right(
    wrong_at: tuple[int, ...], expected: list[bool]
) -> None:
    """The answer and the end must be right; nothing else matters."""
    tokenizer = new_tokenizer()
    items = [Item("first-am", "cbam"), Item("last-nz", "zonk")]
    model: Any = Parrot(len(tokenizer), wrong_at)
    assert answered(model, *encode(tokenizer, items)).tolist() == expected


def test_the_seed_decides_the_model_and_the_caller_notices_nothing() -> None:
    """Initial weights repeat, and torch's own random state and threads come back."""
    tokenizer = new_tokenizer()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    models = []
    for seed in (1, 1, 2):
        with repeatable(seed):
            models.append(new_model(tokenizer).lm_head.weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_accuracy_is_the_mean_over_held_out_words(tmp_path: Path) -> None:
    """Each score is that of its items, and the seed and the split decide these."""
    tokenizer = new_tokenizer()
    with repeatable(0):
        new_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    evaluation = Accuracy(seed=3)
    percents: list[float] = []
    for part, split in (("all", "test"), ("validation", "validation")):
        scores = evaluation(tmp_path, part, percents.append)
        assert list(scores) == list(DOMAINS)
        for score in scores.values():
            assert score.items is not None
            assert len(score.items) == ITEMS[split]
            assert set(score.items) <= {0.0, 100.0}
            assert score.value == pytest.approx(sum(score.items) / ITEMS[split])
    assert percents == [100, 100]
    assert evaluation.identity("all") == evaluation.identity("test")
    assert evaluation.identity("test") != evaluation.identity("validation")
    assert evaluation.identity("test") != Accuracy(seed=4).identity("test")
