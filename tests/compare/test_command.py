"""`mergekit-pcb compare` as it is called: wrong use, and whole runs."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import yaml
from click.testing import Result
from mergekit.scripts import run_yaml

from mergekit_pcb.compare.command import compare
from mergekit_pcb.compare.evaluation import TEST, VALIDATION
from mergekit_pcb.errors import PCBError
from mergekit_pcb.output import places
from tests import tiny

QUIET = ("--quiet", "--no-copy-tokenizer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--out'"),
        (("--methods", "tise"), "did you mean `ties`?"),
        (("--set", "density"), "write NAME=VALUE"),
        (("--set", "ties.densty=1"), "did you mean `density`?"),
        (("--tasks", "x", "--evaluate", "a:b"), "not by both"),
        (("--tasks", "x", "--validation-tasks", "y"), "goes with --tasks and --sweep"),
        (("--keep", "some"), "'some' is not one of"),
        (
            ("--sweep", "auto", "--sweep", "lambda=1,2"),
            "values for single methods only",
        ),
    ],
)
def test_bad_use_exits_with_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """A mistake on the command line is named, and nothing is written."""
    recipe = tiny.write_recipe(
        tiny.recipe_of("org/base", ["org/a"]), tmp_path / "r.yml"
    )
    out = ("--out", tmp_path / "out") if arguments else ()
    result = tiny.invoke(compare, recipe, *out, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_a_wrong_recipe_is_refused(tmp_path: Path) -> None:
    """What `check` calls an error stops the comparison before it begins."""
    recipe = tiny.recipe_of("org/base", ["org/a"], parameters={"densty": 0.1})
    file = tiny.write_recipe(recipe, tmp_path / "r.yml")
    result = tiny.invoke(compare, file, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "did you mean `density`?" in result.output
    assert result.output.lower().count("error") == 1
    assert not (tmp_path / "out").exists()


def one_family(tmp_path: Path) -> tuple[Path, list[tiny.Model]]:
    base, tuned = tiny.save_family(tmp_path, 2)
    recipe = tiny.write_recipe(tiny.recipe_of(base, tuned), tmp_path / "r.yml")
    return recipe, [base, *tuned]


def bad_use(folder: Path, arguments: Sequence[str]) -> str:
    """What is said of a command line that is refused, in one line."""
    recipe, _ = one_family(folder)
    result = tiny.invoke(compare, recipe, "--out", folder / "out", *arguments)
    assert result.exit_code == 2
    return " ".join(result.output.split())


@pytest.mark.parametrize("where", [".", "comparison"])
def test_output_inside_a_model_is_refused(tmp_path: Path, where: str) -> None:
    """Its files would be taken for the model's own, and change it for every run."""
    recipe, (_, tuned, _) = one_family(tmp_path)
    before = sorted(tuned.path.iterdir())
    result = tiny.invoke(compare, recipe, "--out", tuned.path / where)
    assert "model" in tiny.error_line(result)
    assert str(tuned.path) in tiny.error_line(result)
    assert sorted(tuned.path.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty: download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
        (None, "has no weights"),
    ],
)
def test_a_damaged_model_stops_before_the_first_merge(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    """Every merge needs every model: one line names the file."""
    recipe, (*_, damaged) = one_family(tmp_path)
    file = damaged.path / "model.safetensors"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    result = tiny.invoke(compare, recipe, "--out", tmp_path / "out")
    line = tiny.error_line(result)
    assert str(damaged.path) in line
    assert words in line
    assert not (tmp_path / "out").exists()


def test_room_on_disk_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little disk is one line, with what is there and what is needed."""
    recipe, _ = one_family(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: usage)
    result = tiny.invoke(compare, recipe, "--out", tmp_path / "out", "--keep", "all")
    line = tiny.error_line(result)
    assert "1.0 MB free, and 8 merged models at a time" in line
    assert "need about 50.2 MB" in line


@pytest.mark.parametrize("text", ["a,b", "5e-1,b"])
def test_a_swept_value_that_is_no_number_is_named(tmp_path: Path, text: str) -> None:
    """The line says which value it is; `5e-1` is a number."""
    word = text.split(",")[0] if text == "a,b" else "b"
    said = bad_use(tmp_path, ("--sweep", f"lambda={text}"))
    assert f"lambda is '{word}'" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sweep", "lambda=0.5,[1"), "`[1` is not a value"),
        (("--set", "lambda=[1"), "`[1` is not a value"),
        (("--model-args", "dtype=["), "`[` is not a value"),
        (("--model-args", "dtype=float32,trust"), "write NAME=VALUE, not `trust`"),
        (("--model-args", "a=1,a=2"), "`a` is given twice"),
        (("--set", "lambda=1", "--set", "lambda=2"), "`lambda` is given twice"),
        (("--sweep", "lambda=[]"), "`lambda=[]` has no value"),
        (("--sweep", "auto=1,2"), "write `auto` alone, or NAME=A,B"),
        (
            ("--sweep", "lambda=1", "--sweep", "lambda=2,3"),
            "write all its values in one, lambda=A,B",
        ),
    ],
)
def test_values_that_cannot_be_read(
    tmp_path: Path, arguments: Sequence[str], words: str
) -> None:
    """The line is about the option, not about the recipe; nothing is left out."""
    said = bad_use(tmp_path, arguments)
    assert words in said
    assert f"'{arguments[0]}'" in said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--evaluate", "m:f", "--limit", "5"), "--limit is for --tasks"),
        (("--evaluate", "m:f", "--metric", "a=acc"), "--metric is for --tasks"),
        (("--model-args", "dtype=float32"), "--model-args is for --tasks"),
        (("--tasks", "a", "--lower-is-better", "b"), "is for --evaluate"),
        (("--device", "cpu"), "--device needs --tasks or --evaluate"),
        (("--methods", ","), "name what to merge by, with --methods or --recipe"),
    ],
)
def test_options_without_effect(
    tmp_path: Path, arguments: Sequence[str], line: str
) -> None:
    """They are refused: who gives them expects something."""
    assert line in bad_use(tmp_path, arguments)


@pytest.mark.slow
def test_experts_that_are_the_base_crash_nothing(tmp_path: Path) -> None:
    """Nothing was added to the base, so there is nothing to measure."""
    base, tuned = tiny.save_family(tmp_path, 2)
    for model in tuned:
        shutil.copy(base.path / "model.safetensors", model.path)
    recipe = tiny.write_recipe(tiny.recipe_of(base, tuned), tmp_path / "r.yml")
    result = run_compare(recipe, tmp_path / "out", "--methods", "linear,pcb")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "comparison.html").exists()


NORM = """
from safetensors.torch import load_file

def norm(model_dir):
    tensors = load_file(f"{model_dir}/model.safetensors")
    return {"norm": float(tensors["lm_head.weight"].norm()), "loss": 1.0}
"""


def run_compare(recipe: Path, out: Path, *arguments: object) -> Result:
    result = tiny.invoke(compare, recipe, "--out", out, *QUIET, *arguments)
    assert not isinstance(result.exception, Exception), result.output
    return result


@pytest.mark.slow
def test_end_to_end_with_a_function(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real merges by a function of one's own; a method that cannot take them fails."""
    (tmp_path / "norms.py").write_text(NORM)
    monkeypatch.chdir(tmp_path)
    arguments = ("--methods", "pcb,slerp", "--evaluate", "norms:norm", "--set")
    result = run_compare(family, tmp_path / "out", *arguments, "pcb.density=0.5")
    assert result.exit_code == 1, "a row failed"
    document = json.loads((tmp_path / "out" / "comparison.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == ["base", "tuned0", "tuned1", "tuned2", "pcb", "slerp"]
    label = rows["pcb"]["label"]
    number = r"[\d.]+"
    auto = rf"{number} \({number} to {number}\)"
    assert re.fullmatch(rf"density 0\.5, weight 1, lambda auto = {auto}", label)
    assert rows["pcb"]["peak_bytes"] > 10**8
    assert rows["pcb"]["scores"]["norm"]["value"] > 0
    assert "`slerp` takes exactly 2 models" in rows["slerp"]["failed"]
    assert "failed:" in result.output
    kept = tmp_path / "out" / rows["pcb"]["model"]
    assert (kept / "model.safetensors").exists()
    before = sorted(tmp_path.rglob("*"))
    again = run_compare(
        family,
        tmp_path / "out",
        *arguments[:1],
        "pcb",
        *arguments[2:],
        "pcb.density=0.5",
    )
    assert again.exit_code == 0, again.output
    assert "pcb" in again.output
    assert sorted(tmp_path.rglob("*")) == before, "nothing was done again"


PEERS = (
    *("linear", "task_arithmetic", "ties", "dare_ties", "della", "breadcrumbs"),
    *("sce", "model_stock", "karcher", "pcb", "pcb:model"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--methods", ",".join(PEERS)),
        ("--methods", "linear,pcb", "--sweep", "lambda=0.6,1.4"),
    ],
)
def test_the_recipe_of_every_row_is_merged_by_mergekit(
    family: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Untuned and tuned: mergekit-yaml makes the same bits of what the folder holds."""
    out = tmp_path / "out"
    result = run_compare(family, out, "--keep", "all", *arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    merges = [row for row in rows if row["kind"] == "merge"]
    assert len(merges) == (4 if "--sweep" in arguments else len(PEERS))
    for number, row in enumerate(merges):
        again = tmp_path / str(number)
        options = ("--random-seed", 0, "--no-copy-tokenizer")
        tiny.invoke(run_yaml.main, out / row["recipe"], again, *options)
        weights = again / "model.safetensors"
        expected = out / row["model"] / "model.safetensors"
        assert weights.read_bytes() == expected.read_bytes(), row["name"]


def write_tasks(folder: Path, count: int = 12) -> Path:
    """Two task files of lm-evaluation-harness with their items beside them."""
    rng = Random(0)
    items = [
        {
            "text": " ".join(f"w{rng.randrange(3, tiny.VOCAB)}" for _ in range(9)),
            "choices": ["w5", "w7"],
            "answer": rng.randrange(2),
        }
        for _ in range(count)
    ]
    data = folder / "items.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
    }
    reading = {
        "task": "reading",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    }
    guessing = {
        "task": "guessing",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    for task in (reading, guessing):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump({**common, **task}))
    return folder


@pytest.mark.slow
def test_end_to_end_with_the_harness(family: Path, tmp_path: Path) -> None:
    """The real harness, offline: other items choose than are shown."""
    pytest.importorskip("lm_eval", reason="needs the extra [eval]")
    tasks = write_tasks(tmp_path / "tasks")
    out = tmp_path / "out"
    arguments = ("--tasks", "reading,guessing", "--include-path", tasks, "--limit", 10)
    more = ("--methods", "pcb", "--sweep", "lambda=0.5,1.0")
    result = run_compare(family, out, *arguments, *more)
    assert result.exit_code == 0, result.output
    document = json.loads((out / "comparison.json").read_text())
    assert document["tasks"] == {
        "reading": {"higher_is_better": False},
        "guessing": {"higher_is_better": True},
    }
    pcb = next(row for row in document["rows"] if row["name"] == "pcb")
    assert pcb["scores"]["reading"]["metric"] == "bits_per_byte"
    assert pcb["scores"]["reading"]["error"] > 0
    assert any("items 0, 2, 4, …" in note for note in document["notes"])
    units = [json.loads(f.read_text()) for f in (out / "runs").glob("score-*.json")]
    parts = Counter(unit["part"] for unit in units)
    assert parts == {VALIDATION: 6, TEST: 5}
    for unit in units:
        assert len(unit["scores"]["guessing"]["items"]) == 5
    base = {u["part"]: u["scores"] for u in units if u["model"] == "base"}
    reading = [base[part]["reading"]["items"] for part in (VALIDATION, TEST)]
    assert not set(reading[0]) & set(reading[1])


@pytest.mark.slow
def test_the_harness_says_what_it_cannot_do(tmp_path: Path) -> None:
    """An unknown task, an unknown metric and a task of one item are named."""
    pytest.importorskip("lm_eval", reason="needs the extra [eval]")
    from mergekit_pcb.compare.harness import Harness, _metric_key

    tasks = write_tasks(tmp_path / "tasks", count=1)
    single = Harness(["guessing"], include_path=tasks)
    with pytest.raises(PCBError, match="guessing has 1 items"):
        single._half(["guessing"], VALIDATION)
    with pytest.raises(PCBError, match="no metric `f1`; it has acc,none"):
        _metric_key({"acc,none": 0.5}, "guessing", "f1", {})
    with pytest.raises(PCBError, match="did you mean `guessing`"):
        Harness(["guesing"], include_path=tasks)
    with pytest.raises(PCBError, match="--metric: `guesing` is not evaluated; did you"):
        Harness(["guessing"], include_path=tasks, metrics={"guesing": "acc"})
    more = write_tasks(tmp_path / "more", count=3)
    with pytest.raises(PCBError, match="--limit leaves 1 item of guessing"):
        Harness(["guessing"], include_path=more, limit=1)._half(["guessing"], TEST)
