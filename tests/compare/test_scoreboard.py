"""The arithmetic of the table, worked out by hand: `scoreboard`, `table`."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import pytest
from rich.console import Console

from mergekit_pcb.compare.columns import (
    digits,
    row_names,
    row_settings,
    shown_columns,
)
from mergekit_pcb.compare.evaluation import Score, per_item, standard_error
from mergekit_pcb.compare.files import scores_table
from mergekit_pcb.compare.report import answer
from mergekit_pcb.compare.scoreboard import (
    BASE,
    EXPERT,
    MERGE,
    MOST_SHARE,
    Row,
    Scoreboard,
    Tried,
)
from mergekit_pcb.compare.terminal import terminal_tables
from mergekit_pcb.output.table import markdown


def row(
    kind: str,
    name: str,
    *values: float,
    higher: Sequence[bool | None] = (True, True),
    items: Sequence[Sequence[float] | None] = (None, None),
    errors: Sequence[float | None] = (None, None),
    **more: object,
) -> Row:
    scores = {
        task: Score(value, task, better, error, each)
        for task, value, better, error, each in zip(
            ("maths", "chat"), values, higher, errors, items, strict=False
        )
    }
    method = name.partition(":")[0] if kind == MERGE else ""
    return Row(kind, name, scores, **{"method": method, **more})  # type: ignore[arg-type]


BOTH_HIGH = (
    row(BASE, "base", 0.2, 0.4),
    row(EXPERT, "a", 0.8, 0.3),
    row(EXPERT, "b", 0.1, 0.5),
    row(MERGE, "ties", 0.6, 0.4),
    row(MERGE, "pcb", 0.4, 0.5),
    row(MERGE, "pcb:model", 0.7, 0.45),
)


def test_means_and_shares_of_own_experts() -> None:
    """Each task is divided by the expert that is best on it, not by one expert."""
    scoreboard = Scoreboard(BOTH_HIGH)
    ties = BOTH_HIGH[3]
    assert scoreboard.mean(ties) == pytest.approx(0.5)
    assert scoreboard.normalised(ties, "maths") == pytest.approx(75)
    assert scoreboard.normalised(ties, "chat") == pytest.approx(80)
    assert scoreboard.mean_normalised(ties) == pytest.approx(77.5)
    assert scoreboard.mean_normalised(BOTH_HIGH[1]) == pytest.approx(80)


def test_the_best_peer_is_of_another_method() -> None:
    """The other scope of a method is no peer; the second best method is the best's."""
    scoreboard = Scoreboard(BOTH_HIGH)
    ties, pcb, model = BOTH_HIGH[3:]
    assert scoreboard.best_peer(model) is ties
    assert scoreboard.best_peer(pcb) is ties
    assert scoreboard.best_peer(ties) is model
    gap = scoreboard.difference(pcb)
    assert gap is not None
    assert gap.value == pytest.approx(-0.05)
    assert gap.error is None


def test_lower_is_better() -> None:
    """Perplexities: the lowest is best, and a share over 100 % beats the expert."""
    low = (False, False)
    rows = [
        row(BASE, "base", 20.0, 10.0, higher=low),
        row(EXPERT, "a", 8.0, 12.0, higher=low),
        row(EXPERT, "b", 16.0, 6.0, higher=low),
        row(MERGE, "ties", 10.0, 5.0, higher=low),
        row(MERGE, "pcb", 16.0, 8.0, higher=low),
    ]
    scoreboard = Scoreboard(rows)
    assert scoreboard.normalised(rows[3], "maths") == pytest.approx(80)
    assert scoreboard.normalised(rows[3], "chat") == pytest.approx(120)
    assert scoreboard.best(rows) is rows[3]
    assert "| **7.5** | -4.5 | **100.0** | **10.0** | **5.0** |" in markdown(
        scores_table(scoreboard)
    )


def test_tasks_of_both_directions_have_no_mean() -> None:
    """An accuracy and a perplexity are ranked by their shares of the experts'."""
    mixed = (True, False)
    rows = [
        row(EXPERT, "a", 0.8, 5.0, higher=mixed),
        row(MERGE, "ties", 0.4, 5.0, higher=mixed),
        row(MERGE, "pcb", 0.6, 10.0, higher=mixed),
    ]
    scoreboard = Scoreboard(rows)
    assert scoreboard.mean(rows[1]) is None
    assert scoreboard.mean_normalised(rows[1]) == pytest.approx(75)
    assert scoreboard.mean_normalised(rows[2]) == pytest.approx(62.5)
    assert scoreboard.best(rows[1:]) is rows[1]
    titles = [column.title for column in shown_columns(scoreboard)]
    assert titles == ["to the best peer", "% of own expert", "maths ↑", "chat ↓"]


@pytest.mark.parametrize("values", [(-2.0, 1.0), (0.0, 1.0)])
def test_a_share_of_nothing_is_unknown(values: tuple[float, float]) -> None:
    """No expert, an expert at zero, or a negative number: there is no percentage."""
    expert, merge = row(EXPERT, "a", values[0]), row(MERGE, "ties", values[1])
    assert Scoreboard([expert, merge]).normalised(merge, "maths") is None
    assert Scoreboard([merge]).normalised(merge, "maths") is None


@pytest.mark.parametrize(("own", "share"), [(0.1, MOST_SHARE), (0.0, 100.0)])
def test_a_merge_without_errors_is_the_best(own: float, share: float) -> None:
    """Nothing divides by an error of 0, and nothing that is better is ranked lower."""
    mixed = (True, False)
    rows = [
        row(EXPERT, "a", 0.8, own, higher=mixed),
        row(MERGE, "ties", 0.6, 0.4, higher=mixed),
        row(MERGE, "pcb", 1.0, 0.0, higher=mixed),
        row(MERGE, "linear", 0.9, 0.0, higher=mixed),
    ]
    scoreboard = Scoreboard(rows)
    assert scoreboard.normalised(rows[2], "chat") == share
    assert scoreboard.mean_normalised(rows[2]) == pytest.approx((125 + share) / 2)
    assert [r.name for r in scoreboard.in_order()] == ["a", "pcb", "linear", "ties"]


def test_errors_of_differences_are_paired() -> None:
    """Where both answered the same items, what is common to them cancels."""
    one = row(MERGE, "ties", 0.5, items=([0.0, 1.0, 0.0, 1.0],), errors=(0.3,))
    two = row(MERGE, "pcb", 0.75, items=([0.0, 1.0, 1.0, 1.0],), errors=(0.4,))
    gap = Scoreboard([one, two]).difference(two)
    assert gap is not None
    assert gap.value == pytest.approx(0.25)
    # Differences 0, 0, 1, 0: variance 1/4, and the error is sqrt(1/4 / 4).
    assert gap.error == pytest.approx(0.25)
    three = row(MERGE, "sce", 0.5, errors=(0.3,))
    gap = Scoreboard([two, three]).difference(two)
    assert gap is not None
    assert gap.error == pytest.approx(0.5), "unpaired: 0.3 and 0.4 make 0.5"


def test_error_of_the_mean_over_tasks() -> None:
    """Errors 0.3 and 0.4 of two tasks make half of 0.5; one unknown makes none."""
    both = row(MERGE, "ties", 0.5, 0.5, errors=(0.3, 0.4))
    assert Scoreboard([both]).mean_error(both) == pytest.approx(0.25)
    one = row(MERGE, "ties", 0.5, 0.5, errors=(0.3, None))
    assert Scoreboard([one]).mean_error(one) is None


def test_items_of_ratios_are_those_of_the_tangent() -> None:
    """Bits per byte and perplexity: the items' mean is the value, their spread fits."""
    raw = [(-8.0, 4), (-2.0, 2), (-6.0, 6)]
    bits = 16 / 12 / math.log(2)
    items = per_item(raw, bits)
    assert items is not None
    assert sum(items) / 3 == pytest.approx(bits)
    # Document by document: part minus ratio times weight, over the mean weight 4.
    assert items == pytest.approx(
        [bits + x / 4 / math.log(2) for x in (8 - 16 / 3, 2 - 8 / 3, 6 - 8)]
    )
    perplexity = math.exp(16 / 12)
    items = per_item(raw, perplexity)
    assert items is not None
    assert sum(items) / 3 == pytest.approx(perplexity)
    assert standard_error(items) == pytest.approx(
        perplexity * math.sqrt(((8 / 3) ** 2 + (2 / 3) ** 2 + 2**2) / 2 / 3) / 4
    )


@pytest.mark.parametrize("raw", [[], [("a", 1)], [(1.0, 0)], [1.0, 2.0], [(1, 2, 3)]])
def test_no_items_for_what_is_no_mean(raw: list[object]) -> None:
    """An F1 score or a median has no numbers whose mean it is."""
    assert per_item(raw, 0.123) is None


def test_digits_without_a_number() -> None:
    """A column that has no numbers yet still has a number of decimals."""
    assert digits([]) == digits([None]) == 3


def test_settings_say_what_was_swept() -> None:
    """What was chosen stands first, with the number of tries, and of those failed."""
    tried = [
        Tried("", {"lambda": 1.0, "density": 0.1}),
        Tried("", {"lambda": 1.4, "density": 0.1}, failed="no"),
    ]
    label = "density 0.1, weight 1, lambda 1"
    assert row_settings(Row(MERGE, "ties", label=label, tried=tried)) == (
        "best of 2, 1 failed: density 0.1, lambda 1; weight 1"
    )
    none = Row(MERGE, "ties", label=label, tried=[tried[1]] * 2, failed="no")
    assert row_settings(none) == "2 tries; failed: no"
    failed = Row(MERGE, "ties", label="weight 1", failed="out of memory")
    assert row_settings(failed) == "weight 1; failed: out of memory"


@pytest.mark.parametrize("tasks", [1, 3, 12])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_terminal(tasks: int, width: int) -> None:
    """No task is left out, nor cut to another's name; what a merge took may be."""
    names = [f"a-rather-long-task-name-{number}" for number in range(tasks)]
    scores = {name: Score(0.5, "acc", True, 0.1) for name in names}
    label = "density 0.25, epsilon 0.1, weight 0.3333, lambda 1.4"
    rows = [
        Row(BASE, "base", scores),
        Row(EXPERT, "an expert with a very long name indeed", scores),
        Row(MERGE, "pcb", scores, "pcb", label, seconds=1234.0, peak_bytes=10**11),
        Row(MERGE, "sce", scores, "sce"),
        Row(MERGE, "ties", {}, "ties", label, failed="out of memory " * 5),
    ]
    tables, left_out = terminal_tables(Scoreboard(rows), width)
    console = Console(width=width, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert "…\n" not in console.export_text(clear=False)
    # Names of tasks have several lines, and nothing of them is cut off.
    headings = " ".join(lines)
    assert ("mean" if tasks > 1 else "to peer") in headings
    assert headings.count("↑") == tasks
    assert headings.count("a-rather-long-") == tasks
    for number in range(tasks):
        assert f"task-name-{number}" in headings
    assert set(left_out) <= {"seconds", "GB"}


def test_names_move_no_cursor() -> None:
    """Escape sequences and line breaks in a name are not sent to the terminal."""
    scores = {"task\x1b[2J": Score(0.5, "acc", True)}
    rows = [Row(BASE, "base", scores), Row(EXPERT, "a\x1b[31m\nb", scores)]
    console = Console(width=80, record=True, file=io.StringIO())
    for table in terminal_tables(Scoreboard(rows), 80)[0]:
        console.print(table)
    text = console.export_text()
    assert "\x1b" not in text
    assert r"expert a\x1b[31m\nb" in text


def test_the_best_merge_comes_first_and_is_marked() -> None:
    """Merges are in the order of their scores, and what failed is at the end."""
    rows = [
        row(BASE, "base", 0.1),
        Row(MERGE, "sce", method="sce", failed="no"),
        row(MERGE, "ties", 0.5),
        row(MERGE, "pcb", 0.7),
        row(MERGE, "linear", 0.5),
    ]
    ordered = Scoreboard(Scoreboard(rows).in_order())
    assert row_names(ordered) == ["base", "pcb ★", "ties", "linear", "sce"]
    perplexities = [
        Row(r.kind, r.name, {"t": Score(s, "ppl", False)})
        for r, s in zip(rows[2:], (3.0, 2.0, 1.0), strict=True)
    ]
    best_first = Scoreboard(perplexities).in_order()
    assert [row.name for row in best_first] == ["linear", "pcb", "ties"]


def test_without_experts_their_share_is_a_dash() -> None:
    """Where no expert could be evaluated, there is a table all the same."""
    rows = [
        row(BASE, "base", 0.1),
        Row(EXPERT, "a", failed="it is broken"),
        row(MERGE, "ties", 0.1),
        row(MERGE, "pcb", 0.7),
    ]
    scoreboard = Scoreboard(rows)
    assert scoreboard.mean_normalised(rows[3]) is None
    (table,), _ = terminal_tables(scoreboard, 120)
    assert "expert" not in str([column.header for column in table.columns])
    assert answer(scoreboard).startswith("Best: pcb, 0.700. It is better by 0.600 ")
