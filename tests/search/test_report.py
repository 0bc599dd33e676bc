"""What the first line and the notes of a search say."""

from __future__ import annotations

from dataclasses import replace

from mergekit_pcb.compare.evaluation import ALL, TEST, Score, standard_error
from mergekit_pcb.compare.terminal import terminal_tables
from mergekit_pcb.search.files import best_recipe
from mergekit_pcb.search.others import OtherMerge
from mergekit_pcb.search.outcome import Outcome, Tried
from mergekit_pcb.search.report import Report, answer, notes
from mergekit_pcb.search.scores import Scored
from mergekit_pcb.search.space import RECIPE, Candidate, Setting
from mergekit_pcb.search.tables import shown_table
from tests.search.test_tables import SETTING, SPREAD, report

START, FOUND = Candidate(Setting(RECIPE)), Candidate(SETTING, 1.0)


def scored(value: float, *, high: bool = False) -> Scored:
    items = [value + x for x in SPREAD]
    return Scored({"task": Score(value, "score", high, standard_error(items), items)})


def found(
    start: float, best: float, base: float, *, high: bool = False, **changes: object
) -> Report:
    """The report of a search that tried two candidates."""
    tried = [
        Tried(START, scored(start, high=high)),
        Tried(FOUND, scored(best, high=high)),
    ]
    shown = {t.candidate: t.scored for t in tried}
    outcome = Outcome(tried, tried[1], tried[1], scored(base, high=high), shown, ALL)
    return replace(report(), outcome=replace(outcome, **changes))


def test_numbers_keep_their_sign() -> None:
    """Log-likelihoods are negative."""
    made = found(-6.73, -4.728, -9.0, high=True)
    assert answer(made) == (
        "Best: pcb, density 0.2, lambda 1: -4.728 (score, higher is better); the "
        "recipe as it stands -6.73, worse by 2 ± 0."
    )
    assert shown_table(made).rows[1][2].text.startswith("-4.7")


def test_the_first_line_tells_of_the_items_that_are_shown() -> None:
    """Where they say the opposite of those that chose, so does the line."""
    shown = {START: scored(0.134), FOUND: scored(0.755)}
    made = found(0.884, 0.226, 2.0, shown=shown, part=TEST)
    text = (
        "Best: pcb, density 0.2, lambda 1: 0.755 (score, lower is better, on items "
        "that did not choose); the recipe as it stands 0.134, better by 0.621 ± 0."
    )
    assert answer(made) == text
    comments = [
        line[2:] for line in best_recipe(made).splitlines() if line.startswith("# ")
    ]
    assert text in " ".join(comments)


def test_a_base_that_no_merge_is_better_than() -> None:
    """It is said at once, and of which items."""
    assert answer(found(3.0, 2.0, 1.5)).endswith(
        "; no merge is better than the base, 1.5."
    )
    shown = {START: scored(3.0), FOUND: scored(2.0)}
    split = found(3.0, 2.0, 1.5, shown=shown, part=TEST)
    assert answer(split).endswith("than the base, 1.5, on the items that chose.")


def test_a_recipe_of_another_method_is_not_what_the_search_began_with() -> None:
    """Its own merge is never scored, so nothing is called that."""
    made = replace(found(3.0, 2.0, 9.0), method="ties", recipe="t.yml")
    assert "; pcb with its defaults 3, worse" in answer(made)
    assert any("--also ties tries that method" in note for note in notes(made))
    # Every search tries task_arithmetic, and slerp has no settings to try.
    for method in ("task_arithmetic", "slerp"):
        text = next(n for n in notes(replace(made, method=method)) if method in n)
        assert "--also" not in text
    other = Tried(OtherMerge("ties", "", {}), scored(4.0))
    outcome = replace(made.outcome, tried=[*made.outcome.tried, other])
    text = next(n for n in notes(replace(made, outcome=outcome)) if "for ties" in n)
    assert "--also" not in text
    settings = [row.label for row in made.scoreboard.merges]
    assert "pcb with its defaults" in settings


def test_rows_of_one_name_are_told_apart_on_a_narrow_terminal() -> None:
    """Every part of a table that does not fit says which settings a row has."""
    tasks = [f"a task with a long name {i}" for i in range(3)]
    (score,) = scored(2.0).scores.values()
    other = Candidate(Setting("pcb", 0.7, "tensor"), 1.0)
    tried = [Tried(c, Scored(dict.fromkeys(tasks, score))) for c in (FOUND, other)]
    base = Scored(dict.fromkeys(tasks, score))
    shown = {t.candidate: t.scored for t in tried}
    outcome = Outcome(tried, tried[0], tried[0], base, shown, ALL)
    parts, _ = terminal_tables(replace(report(), outcome=outcome).scoreboard, 50)
    assert len(parts) > 1
    for part in parts:
        cells = " ".join(map(str, part.columns[0].cells))
        assert "density 0.2" in cells
        assert "density 0.7" in cells


def test_every_failure_is_told() -> None:
    """Of the base, of candidates, and on the items that are shown."""
    failed = Scored({}, "out of memory")
    made = found(3.0, 2.0, 9.0)
    tried = [*made.outcome.tried, Tried(Candidate(SETTING, 2.0), failed)]
    shown = {START: scored(3.0), FOUND: failed}
    outcome = replace(made.outcome, base=failed, tried=tried, shown=shown, part=TEST)
    texts = list(notes(replace(made, outcome=outcome)))
    assert "The base could not be scored: out of memory" in texts
    assert sum("1 candidate failed" in text for text in texts) == 1
    assert any("did not choose: out of memory" in text for text in texts)
    assert answer(replace(made, outcome=outcome)).startswith("Best: pcb")
