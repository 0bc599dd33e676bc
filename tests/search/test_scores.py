"""Scores of one search are comparable, and its log can be read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mergekit_pcb.compare.evaluation import ALL, Score
from mergekit_pcb.errors import PCBError
from mergekit_pcb.search.scores import Scorer, loss, mean

FIRST = {"acc": Score(0.5, "acc", True, 0.1, [0.0, 1.0])}


class Silent:
    """A display that shows nothing."""

    @contextmanager
    def working_on(self, what: str) -> Iterator[Any]:
        yield lambda percent: None

    def done(self) -> None: ...

    def failed(self, trace: str) -> None: ...


class Returns:
    """An objective that returns, or raises, what it is given as a model."""

    def identity(self, part: str) -> str:
        return part

    def __call__(self, model: Any, part: str, progress: Any) -> Any:
        if isinstance(model, BaseException):
            raise model
        return model


@pytest.fixture
def scorer(tmp_path: Path) -> Scorer:
    return Scorer(tmp_path, Returns(), [], Silent())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (
            {"other": FIRST["acc"]},
            "returned other, and acc for the first model",
        ),
        ({}, "returned nothing, and acc for the first model"),
        (
            {"acc": Score(0.5, "acc", False, 0.1, [0.0, 1.0])},
            "returned acc as better low, and as better high for the first model",
        ),
        (
            {"acc": Score(0.5, "acc", True, 0.1, [0.0, 1.0, 0.5])},
            "returned 3 items of acc, and 2 for the first model",
        ),
        (
            {"acc": Score(0.5, "acc", True, 0.1, None)},
            "returned no items of acc, and 2 for the first model",
        ),
        (KeyError("acc"), "KeyError: 'acc'"),
        (SystemExit(3), "SystemExit: 3"),
        (PCBError("no such file"), "no such file"),
    ],
)
def test_what_cannot_be_compared_is_a_failure(
    scorer: Scorer, second: Any, reason: str
) -> None:
    """The candidate fails, with the reason, and is not kept for the next run."""
    assert scorer("a", "a", ALL, lambda: FIRST).scores == FIRST
    found = scorer("b", "b", ALL, lambda: second)
    assert reason in found.failed
    assert found.scores == {}
    again = Scorer(scorer.folder, scorer.objective, [], scorer.display)
    assert again.known("b", "b", ALL) is None
    known = again.known("a", "a", ALL)
    assert known is not None
    assert known.scores == FIRST


def test_scores_on_other_items_are_their_own(scorer: Scorer) -> None:
    """The items that are shown may be more than those that choose."""
    scorer("a", "a", "validation", lambda: FIRST)
    longer = {"acc": Score(0.5, "acc", True, 0.1, [0.0, 1.0, 0.5])}
    assert not scorer("a", "a", "test", lambda: longer).failed


def test_half_a_line_swallows_no_other(scorer: Scorer) -> None:
    """What a killed search left stands alone; lines of one search are told apart."""
    scorer("a", "a", ALL, lambda: FIRST)
    log = scorer.folder / "candidates.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    scorer("b", "b", ALL, lambda: FIRST)
    other = Scorer(scorer.folder, scorer.objective, ["changed"], scorer.display)
    other("b", "b", ALL, lambda: FIRST)
    half, first, second = log.read_text().splitlines()
    assert not half.endswith("}")
    lines = [json.loads(line) for line in (first, second)]
    assert [line["candidate"] for line in lines] == ["b", "b"]
    assert lines[0]["search"] != lines[1]["search"]


def test_a_mean_has_its_sign() -> None:
    """Log-likelihoods are negative, and better high."""
    scores = {"loglik": Score(-4.5, "loglik", True), "other": Score(-1, "x", True)}
    assert mean(scores) == -2.75
    assert loss(scores) == 2.75
