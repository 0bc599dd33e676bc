"""The plan of a comparison: an estimate from what has been measured."""

from __future__ import annotations

import pytest

from mergekit_pcb.compare.plan import Plan


def test_the_estimate_is_corrected_as_it_goes() -> None:
    """First from the size of the models, then from merges and evaluations."""
    plan = Plan(merges=4, evaluations=6, bytes_read=3e9, bytes_written=2e9)
    assert plan.merging_left == pytest.approx(40)
    assert plan.left is None
    assert str(plan) == (
        "Plan: 4 merges and 6 evaluations; up to 2.0 GB on disk; about 40 s of "
        "merging; the first evaluation shows how long the others take."
    )
    plan.evaluated(100.0)
    assert plan.left == pytest.approx(40 + 5 * 100)
    plan.merged(20.0)
    plan.evaluated(200.0)
    assert plan.left == pytest.approx(3 * 20 + 4 * 150)
    assert str(plan).endswith("about 11 min.")


def test_nothing_to_do_takes_no_time() -> None:
    """All of it is known from before."""
    assert Plan(known=7).left == 0
    assert str(Plan(known=7)) == "Plan: nothing to do; all 7 evaluations are known."


def test_without_any_measure_there_is_no_estimate() -> None:
    """A base on the hub has no size yet."""
    plan = Plan(merges=1, evaluations=1)
    assert plan.left is None
    assert str(plan).endswith("the first of each shows how long the others take.")


def test_a_search_merges_nothing() -> None:
    """Candidates that are made in memory are evaluations only."""
    plan = Plan(evaluations=37)
    assert str(plan) == (
        "Plan: 37 evaluations; the first shows how long the others take."
    )
    plan.evaluated(2)
    assert str(plan) == "Plan: 36 evaluations; about 72 s."
