from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from experiments.bits_per_byte import target_bits, window_bits, windows
from experiments.score_table import (
    Run,
    Score,
    best_peer,
    choose,
    difference,
    markdown,
    mean,
)
from experiments.smollm2_grid import BUDGET, recipe, settings
from experiments.smollm2_texts import LEAK_LENGTH, split_documents

SIZES = {"train_bytes": 6_000, "validation_bytes": 2_500, "test_bytes": 2_500}


def documents(count: int = 40) -> dict[str, str]:
    return {
        f"{d:02}": "\n".join(
            f"Line {i} of document {d} says this and no other line does."
            for i in range(9)
        )
        for d in range(count)
    }


def score(*bits: float, text_bytes: int = 1) -> Score:
    return Score(bits, text_bytes)


def run(method: str | None, validation: float, test: float, label: str = "") -> Run:
    part = [{"a": score(value), "b": score(value)} for value in (validation, test)]
    return Run(method or "base", method, label, *part)


def test_parts_share_no_document() -> None:
    """A document whose line is in one part has no line in another."""
    split = split_documents(documents(), **SIZES, seed=0)
    owners = [
        {line.split()[4] for line in part.splitlines()}
        for part in (split.train, split.validation, split.test)
    ]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_parts_have_the_size_asked_for() -> None:
    """Each part ends with the line that reaches its size."""
    split = split_documents(documents(), **SIZES, seed=0)
    line = 60
    for part, size in (
        (split.train, 6_000),
        (split.validation, 2_500),
        (split.test, 2_500),
    ):
        assert size <= len(part.encode()) < size + line


def test_same_seed_same_split() -> None:
    """The split depends on the seed and on nothing else, such as the dict's order."""
    backwards = dict(reversed(documents().items()))
    first = split_documents(documents(), **SIZES, seed=0)
    assert split_documents(backwards, **SIZES, seed=0) == first
    assert split_documents(documents(), **SIZES, seed=1) != first


def test_repeated_lines_do_not_leak() -> None:
    """A long line that every document repeats is in one part only."""
    refrain = "And this refrain, as long as a verse, returns in every one."
    assert len(refrain) >= LEAK_LENGTH
    texts = {name: f"{refrain}\n{text}" for name, text in documents().items()}
    split = split_documents(texts, **SIZES, seed=0)
    assert refrain in split.test
    assert refrain not in split.train + split.validation


def test_too_little_text_is_an_error() -> None:
    """Documents that cannot fill the parts are refused."""
    with pytest.raises(ValueError, match="too little text"):
        split_documents(documents(3), **SIZES, seed=0)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16])
def test_every_token_is_predicted_once(count: int) -> None:
    """The windows' targets are the text, and each follows its own input."""
    tokens = list(range(100, 100 + count))
    cut = windows(tokens, 8, start=1)
    assert [t for _, targets in cut for t in targets] == tokens
    assert [i for inputs, _ in cut for i in inputs] == [1, *tokens][:-1]
    assert all(len(inputs) == len(targets) <= 8 for inputs, targets in cut)


def test_bits_of_a_known_distribution() -> None:
    """Probabilities 1/2 and 1/8 cost 1 and 3 bits."""
    half = [0.5, 0.25, 0.125, 0.125]
    logits = torch.tensor([half, half]).log()
    assert target_bits(logits, torch.tensor([0, 2])) == pytest.approx(4.0)


def test_bits_per_byte_of_a_uniform_model() -> None:
    """A model that knows nothing of 16 tokens pays 4 bits each, here 2 per byte."""

    class Uniform:
        def base_model(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.zeros(*input_ids.shape, 3),)

        def lm_head(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(hidden), 16)

    bits = window_bits(Uniform(), [3] * 70, length=40, start=1)
    assert bits == pytest.approx([160.0, 120.0])
    assert Score(bits, text_bytes=140).bits_per_byte == pytest.approx(2.0)


def test_choice_looks_at_validation_only() -> None:
    """The setting best on validation is chosen although another is better on test."""
    good, lucky = run("ties", 1.0, 2.0, "good"), run("ties", 1.1, 0.1, "lucky")
    other = run("pcb", 9.0, 9.0)
    assert choose([lucky, good, other]) == [good, other]


def test_refused_runs_are_chosen_last() -> None:
    """A refused run stands for its family only where nothing else can."""
    refused = Run("pcb", "pcb", "x", {}, {}, refused="PCBError: not yet")
    done = run("pcb", 3.0, 3.0)
    assert choose([refused, done]) == [done]
    assert choose([refused]) == [refused]


def test_mean_counts_domains_alike() -> None:
    """A domain with more bytes weighs no more than another."""
    scores = {"a": score(10.0, text_bytes=10), "b": score(300.0, text_bytes=100)}
    assert mean(scores) == pytest.approx(2.0)


def test_best_peer_is_of_another_method() -> None:
    """Neither the base model nor another form of the same method is a peer."""
    tensor, model = run("pcb", 1.0, 1.0), run("pcb", 1.2, 1.2)
    ties, linear = run("ties", 1.5, 1.5), run("linear", 1.6, 1.6)
    chosen = [run(None, 0.0, 0.0), tensor, model, ties, linear]
    assert best_peer(tensor, chosen) is ties
    assert best_peer(ties, chosen) is tensor
    assert best_peer(tensor, [tensor, model]) is None


def test_difference_and_its_error() -> None:
    """Window differences 1 and 3 bits over 2 bytes: 2 per byte, standard error 1."""
    a = Run("a", "a", "", {}, {"d": score(5.0, 7.0, text_bytes=2)})
    b = Run("b", "b", "", {}, {"d": score(4.0, 4.0, text_bytes=2)})
    value, error = difference(a, b)
    # The sum of two differences of variance 2 has variance 4; per byte, its root is 1.
    assert (value, error) == pytest.approx((2.0, 1.0))


def test_table_shows_test_scores() -> None:
    """Rows hold test text, the best merge is bold, a refusal stands in its row."""
    rows = [
        run("ties", 9.0, 1.25, "lambda 1"),
        Run("pcb", "pcb", "", {}, {}, refused="PCBError: not yet"),
        run("linear", 9.0, 1.5),
    ]
    lines = markdown([run(None, 9.0, 1.0)], rows, ["a", "b"]).splitlines()
    assert lines[2] == "| base | 1.000 | 1.000 | 1.000 |  |"
    assert lines[3].startswith(
        "| ties (lambda 1) | **1.250** | **1.250** | **1.250** |"
    )
    assert "-0.2500 ± " in lines[3]
    assert lines[4] == "| pcb: PCBError: not yet |  |  |  |  |"
    assert "+0.2500 ± " in lines[5]
    assert len({line.count("|") for line in lines}) == 1


def test_every_method_has_the_same_budget() -> None:
    """No family of settings may try more often than another."""
    assert set(Counter(s.family for s in settings()).values()) == {BUDGET}
    assert len({(s.family, s.label) for s in settings()}) == len(settings())


def test_recipes_are_absolute_and_complete() -> None:
    """Each recipe names absolute paths; all methods but linear have the base model."""
    names = [Path(name) for name in ("sv", "dialogue", "words")]
    for setting in settings():
        document = yaml.safe_load(recipe(setting, Path("base"), names))
        paths = [model["model"] for model in document["models"]]
        assert all(Path(path).is_absolute() for path in paths)
        assert ("base_model" in document) == (setting.method != "linear")
        assert not any(math.isnan(w) for w in setting.weights)


def test_finished_run_survives_json() -> None:
    """What one session has scored, the next reads back equal."""
    from dataclasses import asdict

    finished = run("ties", 1.0, 2.0, "lambda 1")
    again = Run.from_json(asdict(finished))
    assert markdown([], [again], ["a"]) == markdown([], [finished], ["a"])
    assert again == finished
