"""What `mergekit-pcb compare` runs, resumes and keeps, evaluated without models."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from mergekit_pcb.compare import disk
from mergekit_pcb.compare.candidates import Inputs, candidates, inputs_of
from mergekit_pcb.compare.disk import merged_size, require_room
from mergekit_pcb.compare.evaluation import ALL, TEST, VALIDATION, Score
from mergekit_pcb.compare.merge_process import Cost
from mergekit_pcb.compare.run import Comparison
from mergekit_pcb.compare.scoreboard import Row
from mergekit_pcb.compare.weight_metrics import WeightMetrics
from mergekit_pcb.errors import PCBError
from tests import tiny

LAMBDAS = {"": {"lambda": [0.6, 1.0, 1.4]}}


class Display:
    """Counts."""

    def __init__(self) -> None:
        self.models = 0

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


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (lambda folder: (folder / "base" / "model.bin").write_text("other"), 14),
        (lambda folder: (folder / "b" / "model.bin").write_text("other"), 10),
    ],
)
def test_a_changed_model_counts_as_another(
    tmp_path: Path, change: Callable[[Path], object], asked: int
) -> None:
    """A model that was trained again is evaluated again, and so are its merges."""
    comparison(tmp_path, ByLambda()).run()
    change(tmp_path)
    evaluation = ByLambda()
    comparison(tmp_path, evaluation).run()
    assert len(evaluation.asked) == {14: 2, 10: 2}[asked] + 8


def test_a_method_that_fails_has_a_row_that_says_why(tmp_path: Path) -> None:
    """The others go on, and the next run tries again what failed."""

    def picky(recipe: Path, out: Path) -> Cost:
        if "ties" in recipe.read_text():
            raise PCBError("epsilon does not fit\nand more")
        return copy_recipe(recipe, out)

    rows, _ = comparison(tmp_path, ByLambda(), merge=picky).run()
    assert named(rows, "ties").failed == "epsilon does not fit"
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


def test_measures_without_data_choose_nothing(tmp_path: Path) -> None:
    """Where no score is good or bad, every setting has its row."""

    class Measures(ByLambda):
        can_rank = False

    rows, _ = comparison(tmp_path, Measures(splits=False)).run()
    assert [row.label for row in rows if row.name == "pcb"] == [
        f"density 0.1, weight 1, lambda {value}" for value in ("0.6", "1", "1.4")
    ]


def test_room_on_disk_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little disk is one line, with what is there and what is needed."""
    base, _ = tiny.save_family(tmp_path, 1, dtype=tiny.torch.bfloat16)
    stored = (base.path / "model.safetensors").stat().st_size
    assert merged_size(str(base.path), None) == stored
    assert merged_size(str(base.path), "float32") == 2 * stored
    assert merged_size("nobody/has-this", None) == 0
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PCBError, match=r"0\.0 GB free, and 3 merged models"):
        require_room(tmp_path / "not" / "there", str(base.path), None, 3)
    require_room(tmp_path, "nobody/has-this", None, 3)


def test_measures_without_data_by_hand(tmp_path: Path) -> None:
    """Half the sum of two task vectors has norm ratio 1 and known cosines."""
    shape = (tiny.VOCAB, tiny.HIDDEN)
    zero, one, two = tiny.torch.zeros((3, *shape))
    one[0, 0], two[0, 1] = 3.0, 4.0
    tensors = {"base": zero, "a": one, "b": two, "half": (one + two) / 2}
    for name, tensor in tensors.items():
        weights = {"model.embed_tokens.weight": tensor, "lm_head.weight": zero.clone()}
        tiny.save_llama(tmp_path / name, weights)
    # An extended vocabulary has no counterpart in the base and is passed over.
    extended = {
        "model.embed_tokens.weight": (one + two) / 2,
        "lm_head.weight": tiny.torch.ones(tiny.VOCAB + 1, tiny.HIDDEN),
    }
    tiny.save_llama(tmp_path / "extended", extended)
    experts = {name: str(tmp_path / name) for name in "ab"}
    measures = WeightMetrics(Inputs(str(tmp_path / "base"), experts))
    for name in ("half", "extended"):
        scores = measures(tmp_path / name, ALL, ignore)
        assert {name: score.value for name, score in scores.items()} == pytest.approx(
            {"norm ratio": 1.0, "cos a": 0.6, "cos b": 0.8}
        )


def ignore(percent: float) -> None:
    pass
