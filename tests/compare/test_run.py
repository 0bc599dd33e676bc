"""What `mergekit-pcb compare` runs, resumes and keeps, evaluated without models."""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

from mergekit_pcb.compare import ahead
from mergekit_pcb.compare.candidates import candidates
from mergekit_pcb.compare.columns import row_settings
from mergekit_pcb.compare.evaluation import ALL, TEST, VALIDATION, Score
from mergekit_pcb.compare.inputs import inputs_of
from mergekit_pcb.compare.jobs import Done
from mergekit_pcb.compare.merge_process import Cost
from mergekit_pcb.compare.recipe import only_one_at_a_time
from mergekit_pcb.compare.report import Report, notes
from mergekit_pcb.compare.result_cache import identity_of, key_of
from mergekit_pcb.compare.run import Comparison
from mergekit_pcb.compare.scoreboard import Row
from mergekit_pcb.errors import PCBError
from mergekit_pcb.recipes.models import located
from tests import tiny

LAMBDAS = {"": {"lambda": [0.6, 1.0, 1.4]}}


class Display:
    """Counts."""

    def __init__(self) -> None:
        self.models = 0
        self.log = io.StringIO()

    @contextmanager
    def working_on(self, what: str) -> Iterator[Callable[[float], None]]:
        yield lambda percent: None

    def done(self) -> None:
        self.models += 1

    def failed(self, trace: str) -> None:
        assert "Traceback" in trace


class ByLambda:
    """Scores a merge by its lambda, for which validation and test items differ."""

    what = "Evaluated by lambda"
    how_chosen = "validation chose"
    can_rank = True

    def __init__(self, *, splits: bool = True, stop_after: int | None = None) -> None:
        self.splits = splits
        self.asked: list[tuple[str, str]] = []
        self.stop_after = stop_after

    def identity(self, part: str) -> Any:
        return ["by lambda", part]

    def __call__(self, model: Path, part: str, progress: object) -> dict[str, Score]:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((model.name.partition("-")[0], part))
        value = {"base": 0.1, "a": 0.5, "b": 0.4}.get(model.name)
        if value is None:
            recipe = yaml.safe_load((model / "recipe.yml").read_text())
            lambda_ = recipe["parameters"].get("lambda", 1.0)
            best = {VALIDATION: 1.4, TEST: 0.6, ALL: 1.0}[part]
            value = 0.9 - abs(lambda_ - best)
        return {"task": Score(value, "accuracy", True)}


def comparison(folder: Path, evaluation: ByLambda, **more: Any) -> Comparison:
    """One of a base, experts a and b, and merges that only copy their recipe."""
    for name in ("base", "a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    recipe = {
        "merge_method": "pcb",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / name)} for name in "ab"],
    }
    methods = more.pop("methods", ["ties", "pcb"])
    swept = more.pop("swept", LAMBDAS)
    options: dict[str, Any] = {
        "folder": folder / "out",
        "inputs": inputs_of(recipe),
        "candidates": candidates(recipe, methods, swept=swept),
        "evaluation": evaluation,
        "merge": copy_recipe,
        "merge_options": {},
        "keep": "none",
        "display": Display(),
    }
    return Comparison(**options | more)


def copy_recipe(recipe: Path, out: Path) -> Cost:
    out.mkdir(parents=True)
    shutil.copy(recipe, out / "recipe.yml")
    return Cost(1.5, 10**9)


def merged(folder: Path) -> list[str]:
    found = (folder / "out" / "merged").glob("*")
    return sorted(path.name.partition("-")[0] for path in found)


def named(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def test_validation_chooses_and_test_is_shown(tmp_path: Path) -> None:
    """The setting that is best on validation is shown, however bad on test."""
    evaluation = ByLambda()
    rows, references = comparison(tmp_path, evaluation).run()
    pcb = named(rows, "pcb")
    assert [tried.chosen for tried in pcb.tried] == [False, False, True]
    assert pcb.scores["task"].value == pytest.approx(0.9 - 0.8)
    assert pcb.tried[2].scores["task"].value == pytest.approx(0.9)
    assert (pcb.seconds, pcb.peak_bytes) == (1.5, 10**9)
    assert [row.name for row in rows] == ["base", "a", "b", "ties", "pcb"]
    assert [row.name for row in references] == ["base", "a", "b"]
    tested = Counter(name for name, part in evaluation.asked if part == TEST)
    assert tested == {"base": 1, "a": 1, "b": 1, "ties": 1, "pcb": 1}


def test_the_same_items_for_both_where_none_are_apart(tmp_path: Path) -> None:
    """An evaluation that cannot split is asked once for every model."""
    evaluation = ByLambda(splits=False)
    it = comparison(tmp_path, evaluation)
    rows, _ = it.run()
    assert not it.chooses_apart
    assert {part for _, part in evaluation.asked} == {ALL}
    assert named(rows, "pcb").tried[1].chosen
    assert len(evaluation.asked) == 3 + 2 * 3


def test_nothing_is_split_where_nothing_is_chosen(tmp_path: Path) -> None:
    """Without a sweep every item counts."""
    evaluation = ByLambda()
    comparison(tmp_path, evaluation, swept={}).run()
    assert {part for _, part in evaluation.asked} == {ALL}


def test_every_step_is_counted(tmp_path: Path) -> None:
    """As many models are counted as were announced."""
    for swept in ({}, LAMBDAS):
        it = comparison(tmp_path / str(len(swept)), ByLambda(), swept=swept)
        it.run()
        assert isinstance(it.display, Display)
        assert it.display.models == it.steps


@pytest.mark.parametrize("done", [0, 4, 9, 14])
def test_the_plan_counts_what_is_left(tmp_path: Path, done: int) -> None:
    """What the folder has costs nothing, and afterwards nothing is left."""
    with suppress(KeyboardInterrupt):
        comparison(tmp_path, ByLambda(stop_after=done)).run()
    rest = ByLambda()
    it = comparison(tmp_path, rest)
    it.make_plan()
    assert (it.plan.evaluations, it.plan.known) == (14 - done, done)
    assert len(it.plan.evaluation_seconds) == done
    merges, measured = it.plan.merges, len(it.plan.merge_seconds)
    it.run()
    assert len(it.plan.merge_seconds) - measured == merges
    assert len(rest.asked) == 14 - done
    assert it.plan.left == it.plan.merges == it.plan.evaluations == 0


@pytest.mark.parametrize("keep", ["none", "best", "all"])
def test_a_second_run_does_nothing(tmp_path: Path, keep: str) -> None:
    """What is finished is neither merged nor evaluated again."""
    first, _ = comparison(tmp_path, ByLambda(), keep=keep).run()

    def refuse(*_: object) -> Cost:
        raise AssertionError("merged again")

    evaluation = ByLambda()
    second, _ = comparison(tmp_path, evaluation, keep=keep, merge=refuse).run()
    assert evaluation.asked == []
    assert second == first


@pytest.mark.parametrize("done", [0, 2, 5, 8, 11])
def test_an_interrupted_run_goes_on(tmp_path: Path, done: int) -> None:
    """After Ctrl-C only what is missing is evaluated, and the result is the same."""
    whole = ByLambda()
    expected, _ = comparison(tmp_path / "whole", whole).run()
    broken = ByLambda(stop_after=done)
    with pytest.raises(KeyboardInterrupt):
        comparison(tmp_path / "broken", broken).run()
    rest = ByLambda()
    rows, _ = comparison(tmp_path / "broken", rest).run()
    assert broken.asked + rest.asked == whole.asked
    assert [row.scores for row in rows] == [row.scores for row in expected]


def test_a_merge_that_was_kept_is_not_made_again(tmp_path: Path) -> None:
    """Other tasks on the same merges need no merging."""
    comparison(tmp_path, ByLambda(), keep="all").run()

    class Other(ByLambda):
        def identity(self, part: str) -> Any:
            return ["other", part]

    def refuse(*_: object) -> Cost:
        raise AssertionError("merged again")

    evaluation = Other()
    comparison(tmp_path, evaluation, keep="all", merge=refuse).run()
    assert len(evaluation.asked) == 3 * 2 + 2 * 3 + 2


@pytest.mark.parametrize("changed", ["base", "b"])
def test_a_changed_model_counts_as_another(tmp_path: Path, changed: str) -> None:
    """A model that was trained again is evaluated again, and so are its merges."""
    comparison(tmp_path, ByLambda()).run()
    (tmp_path / changed / "model.bin").write_text("other")
    evaluation = ByLambda()
    comparison(tmp_path, evaluation).run()
    asked = Counter(name for name, _ in evaluation.asked)
    assert asked == {changed: 2, "ties": 4, "pcb": 4}


def test_the_scores_are_shown_where_the_best_merge_cannot_be_kept(
    tmp_path: Path,
) -> None:
    """A full disk after hours of work: one line says it, and nothing is lost."""
    expected, _ = comparison(tmp_path, ByLambda()).run()

    def refuse(recipe: Path, out: Path) -> Cost:
        raise PCBError("No space left on device")

    rows, _ = comparison(tmp_path, ByLambda(), keep="best", merge=refuse).run()
    assert [row.scores for row in rows] == [row.scores for row in expected]
    (lost,) = (row for row in rows if row.lost)
    assert (lost.name, lost.model) == ("ties", "")
    about = ("Evaluated by lambda", "", {})
    report = Report("r.yml", tmp_path / "out", rows, [], *about)
    assert report.failed, "the command ends with status 1"
    assert (
        "The model of ties could not be kept: No space left on device. Its recipe is "
        f"{lost.recipe}."
    ) in notes(report)


def test_a_merge_made_elsewhere_does_not_vouch_for_files_here(tmp_path: Path) -> None:
    """Somebody has deleted a file of the folder that an earlier run kept."""
    first = comparison(tmp_path, ByLambda(), keep="best")
    first.run()
    kept = next(c for c in first.candidates if first.results.is_merged(c))
    (first.results.merged_folder(kept) / "recipe.yml").write_text("")
    ahead._keep(first, kept, TEST, Done({}, cost=Cost(1.0, None)))
    assert not first.results.is_merged(kept)
    first.results.keep_cost(kept, Cost(1.0, None), tmp_path / "nowhere")
    assert not first.results.is_merged(kept)


def test_what_auto_became_is_shown(tmp_path: Path) -> None:
    """In the settings of the row and of each try, also when nothing is merged again."""

    def with_auto(recipe: Path, out: Path) -> Cost:
        chosen = yaml.safe_load(recipe.read_text())["parameters"].get("lambda", "auto")
        auto = "1.42 (0.9 to 2.3)" if chosen == "auto" else ""
        return copy_recipe(recipe, out)._replace(auto=auto)

    options: Any = {"methods": ["pcb"], "swept": {"": {"density": [0.1, 0.4]}}}
    for merge in (with_auto, copy_recipe):
        evaluation = Density(splits=False)
        rows, _ = comparison(tmp_path, evaluation, merge=merge, **options).run()
        expected = "density 0.1, weight 1, lambda auto = 1.42 (0.9 to 2.3)"
        assert named(rows, "pcb").label == expected
        assert [t.label for t in named(rows, "pcb").tried] == [
            expected,
            expected.replace("0.1", "0.4"),
        ]
        assert row_settings(named(rows, "pcb")) == (
            "best of 2: density 0.1; weight 1, lambda auto = 1.42 (0.9 to 2.3)"
        )


class Density(ByLambda):
    """Scores a merge by its density: the smaller the better."""

    def __call__(self, model: Path, part: str, progress: object) -> dict[str, Score]:
        value = 0.5
        if (model / "recipe.yml").exists():
            recipe = yaml.safe_load((model / "recipe.yml").read_text())
            value = 1 - recipe["parameters"]["density"]
        return {"task": Score(value, "accuracy", True)}


def test_a_method_that_fails_has_a_row_that_says_why(tmp_path: Path) -> None:
    """The others go on, and the next run tries again what failed."""

    def picky(recipe: Path, out: Path) -> Cost:
        if "ties" in recipe.read_text():
            raise PCBError("epsilon does not fit\nand more")
        return copy_recipe(recipe, out)

    it = comparison(tmp_path, ByLambda(), merge=picky)
    it.make_plan()
    rows, _ = it.run()
    assert it.plan.merges == 0
    assert it.plan.evaluations == 1, "the test items of ties, which has no best merge"
    assert named(rows, "ties").failed == "epsilon does not fit and more"
    assert not named(rows, "pcb").failed
    rows, _ = comparison(tmp_path, ByLambda()).run()
    assert not named(rows, "ties").failed


def test_a_setting_that_fails_does_not_win(tmp_path: Path) -> None:
    """The best of the settings that could be evaluated is shown."""

    class Fussy(ByLambda):
        def __call__(self, model: Path, part: str, progress: object) -> Any:
            if (model / "recipe.yml").exists():
                recipe = yaml.safe_load((model / "recipe.yml").read_text())
                if recipe["parameters"]["lambda"] == 1.4:
                    raise ValueError("it talks nonsense")
            return super().__call__(model, part, progress)

    rows, _ = comparison(tmp_path, Fussy()).run()
    tried = named(rows, "pcb").tried
    assert tried[2].failed == "ValueError: it talks nonsense"
    assert tried[1].chosen


def test_an_evaluation_that_exits_is_one_that_failed(tmp_path: Path) -> None:
    """What it calls may be a command, whose end must not be ours."""

    class Leaving(ByLambda):
        def __call__(self, model: Path, part: str, progress: object) -> Any:
            if (model / "recipe.yml").exists() and "ties" in model.name:
                raise SystemExit(0)
            return super().__call__(model, part, progress)

    rows, _ = comparison(tmp_path, Leaving()).run()
    assert named(rows, "ties").failed == "SystemExit: 0"
    assert not named(rows, "pcb").failed


def test_names_of_files_have_a_length_that_systems_take() -> None:
    """Whatever is compared; the digest tells them apart."""
    long = "weights " + ", ".join(["0.123"] * 99)
    keys = {key_of(long, 1), key_of(long, 2), key_of(long + "4", 1)}
    assert len(keys) == 2, "the name is for people"
    assert all(len(key) < 100 for key in keys)


def test_no_model_can_be_evaluated(tmp_path: Path) -> None:
    """If even the inputs fail, nothing is merged."""

    class Broken(ByLambda):
        def __call__(self, model: Path, part: str, progress: object) -> Any:
            raise RuntimeError("no such task")

    def refuse(*_: object) -> Cost:
        raise AssertionError("merged")

    with pytest.raises(PCBError, match=r"no model could .*no such task"):
        comparison(tmp_path, Broken(), merge=refuse).run()


@pytest.mark.parametrize(
    ("keep", "models"),
    [("none", []), ("best", ["ties"]), ("all", ["pcb"] * 3 + ["ties"] * 3)],
)
def test_only_the_wanted_models_are_kept(
    tmp_path: Path, keep: str, models: list[str]
) -> None:
    """None, the best, or all stay; of equals the first is the best."""
    most = 0

    def counting(recipe: Path, out: Path) -> Cost:
        nonlocal most
        cost = copy_recipe(recipe, out)
        most = max(most, len(merged(tmp_path)))
        return cost

    it = comparison(tmp_path, ByLambda(), keep=keep, merge=counting)
    expected = it.models_at_a_time
    it.run()
    assert merged(tmp_path) == models
    assert most == expected
    assert it.models_at_a_time == 0, "nothing is left to do"


def test_the_model_that_is_kept_is_the_best_that_is_shown(tmp_path: Path) -> None:
    """Validation items choose between settings, and not between rows."""

    class Turned(ByLambda):
        def __call__(self, model: Path, part: str, progress: object) -> Any:
            found = super().__call__(model, part, progress)["task"]
            bonus = {("ties", VALIDATION): 0.1, ("pcb", TEST): 0.1}
            name = model.name.partition("-")[0]
            value = found.value + bonus.get((name, part), 0.0)
            return {"task": Score(value, "accuracy", True)}

    comparison(tmp_path, Turned(), keep="best").run()
    assert merged(tmp_path) == ["pcb"]


def test_measures_without_data_choose_nothing(tmp_path: Path) -> None:
    """Where no score is good or bad, every setting has its row, and none is kept."""

    class Measures(ByLambda):
        can_rank = False

    rows, _ = comparison(tmp_path, Measures(splits=False), keep="best").run()
    assert merged(tmp_path) == []
    labels = [row.label for row in rows if row.name == "pcb"]
    assert [label.rpartition("lambda ")[2] for label in labels] == ["0.6", "1", "1.4"]


def test_a_model_that_changed_in_any_way_is_another(tmp_path: Path) -> None:
    """Its adapter counts, and so do files whose size and times were put back."""
    base, _ = tiny.save_family(tmp_path, 0)
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    adapter.parent.mkdir()
    save_file({"a": tiny.torch.zeros(4)}, adapter)
    model = located(f"{base.path}+{adapter.parent}")
    seen = [identity_of(model)]
    save_file({"a": tiny.torch.ones(9)}, adapter)
    seen.append(identity_of(model))
    weights = base.path / "model.safetensors"
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    os.utime(weights, ns=times)
    seen.append(identity_of(model))
    assert seen[0] != seen[1] != seen[2]
    (base.path / ".git").mkdir()
    (base.path / ".git" / "index").write_text("refreshed")
    assert identity_of(model) == seen[2]


@pytest.mark.parametrize("file", ["merged", "recipes", "runs"])
def test_a_file_of_an_earlier_run_that_was_changed_is_made_again(
    tmp_path: Path, file: str
) -> None:
    """A merged model, a recipe or a result that is another now is not trusted."""
    expected, _ = comparison(tmp_path, ByLambda(), keep="all").run()
    kept = {
        path: path.read_text()
        for path in (tmp_path / "out" / file).rglob("*.*")
        if path.is_file()
    }
    for path in kept:
        path.write_text("changed")
    rows, _ = comparison(tmp_path, ByLambda(), keep="all").run()
    assert rows == expected
    assert kept
    for path, text in kept.items():
        if file != "runs":
            assert path.read_text() == text


def test_one_comparison_at_a_time_in_a_folder(tmp_path: Path) -> None:
    """The second says so and stops; what a dead process left behind stops nobody."""
    with (
        only_one_at_a_time(tmp_path / "out"),
        pytest.raises(PCBError, match=f"another .* is working in {tmp_path}/out: "),
        only_one_at_a_time(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out" / ".lock").exists()
    with only_one_at_a_time(tmp_path / "out"):
        pass
