"""`mergekit-pcb demo`: its recipes, its folder, and all of it at once."""

from __future__ import annotations

import csv
import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
import yaml
from click.testing import CliRunner, Result
from mergekit.config import MergeConfiguration
from mergekit.scripts import run_yaml
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_pcb.cli import main
from mergekit_pcb.compare.candidates import candidates
from mergekit_pcb.compare.evaluation import Score
from mergekit_pcb.compare.grids import automatic_sweep
from mergekit_pcb.compare.recipe import compare_recipe
from mergekit_pcb.compare.report import Report
from mergekit_pcb.compare.scoreboard import BASE, MERGE, Row
from mergekit_pcb.demo import command
from mergekit_pcb.demo.command import METHODS, recipe_text
from mergekit_pcb.demo.models import Accuracy, repeatable, train_all
from mergekit_pcb.demo.tasks import DOMAINS
from tests.tiny import error_line


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["demo", *map(str, arguments)])


# The merges


def test_every_method_with_settings_is_tuned_over_equally_many(tmp_path: Path) -> None:
    """No method gets more tries than another, and each tries its untuned setting."""
    recipe = yaml.safe_load(recipe_text(tmp_path))
    tuned = candidates(recipe, METHODS, swept=automatic_sweep(METHODS))
    names = [candidate.name for candidate in tuned]
    assert {names.count(method) for method in METHODS} == {6}
    tried = {(c.name, c.label.removeprefix("scale 1, ")) for c in tuned}
    assert tried >= {(c.name, c.label) for c in candidates(recipe, METHODS)}


def test_untuned_settings_are_published_or_usual(tmp_path: Path) -> None:
    """The settings that `compare` makes of the demo's recipe are as its note says."""
    recipe = yaml.safe_load(recipe_text(tmp_path))
    assert {c.name: c.label for c in candidates(recipe, METHODS)} == {
        "pcb": "density 0.2, weight 1, lambda auto",
        "ties": "density 0.2, weight 1, lambda 1",
        "dare_ties": "density 0.5, weight 0.4, lambda 1",
        "task_arithmetic": "weight 0.4, lambda 1",
        "linear": "weight 1",
    }


def test_the_recipe_is_one_that_runs_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It parses, sets no parameter, and its paths are absolute."""
    monkeypatch.chdir(tmp_path)
    text = recipe_text(Path("models"))
    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    assert "parameters" not in text
    assert all(Path(str(m)).is_absolute() for m in config.referenced_models())


# The folder


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the minute of training by a few files and a made-up table."""

    def run(out: Path, seed: int, *, quiet: bool) -> dict[str, Report]:
        (out / "models").mkdir()
        (out / "recipes").mkdir()
        (out / "recipes" / "pcb.yml").write_text("merge_method: pcb\n")
        scores = {"first-am": Score(50.0, "first-am", True)}
        rows = [Row(BASE, "base", scores), Row(MERGE, "pcb", scores, "pcb")]
        about = ("Words", "", {"torch": "2"})
        return {"A title": Report("recipe.yml", out, rows, rows[:1], *about)}

    monkeypatch.setattr(command, "_run", run)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    """Nothing of the user's is touched, with --force neither, and one line says so."""
    (tmp_path / "models").mkdir()
    (tmp_path / "thesis.txt").write_text("precious")
    for options in ([], ["--force"]):
        result = call("--out", tmp_path, *options)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert "neither empty nor a demo" in result.stderr
        assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """Click's own message refuses --out when it is a file."""
    (tmp_path / "file").touch()
    result = call("--out", tmp_path / "file")
    assert result.exit_code == 2
    assert "is a file" in result.stderr


@pytest.mark.usefixtures("without_training")
def test_a_second_run_shows_the_tables_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained or merged, and a changed recipe is left as it is."""
    out = tmp_path / "demo"
    first = call("--out", out, "--quiet")
    (out / "recipes" / "pcb.yml").write_text("merge_method: linear\n")
    monkeypatch.setattr(command, "_run", None)
    again = call("--out", out, "--quiet")
    assert again.exit_code == 0, again.output
    assert [line.rstrip() for line in again.stdout.splitlines()] == [
        line.rstrip() for line in first.stdout.splitlines()
    ]
    assert "merge_method: linear" in call("--out", out).stdout


@pytest.mark.usefixtures("without_training")
@pytest.mark.parametrize("lost", ["models", "recipes"])
def test_a_demo_of_which_something_was_deleted_is_run_again(
    tmp_path: Path, lost: str
) -> None:
    """The commands that it prints at the end need it."""
    out = tmp_path / "demo"
    assert call("--out", out).exit_code == 0
    shutil.rmtree(out / lost)
    assert call("--out", out).exit_code == 0
    assert (out / lost).is_dir()


@pytest.mark.usefixtures("without_training")
def test_an_earlier_demo_is_replaced_only_by_force(tmp_path: Path) -> None:
    """Another seed is refused; --force replaces the demo's files and no others."""
    out = tmp_path / "demo"
    assert call("--out", out).exit_code == 0
    (out / "models" / "stale").touch()
    (out / "notes.txt").touch()

    refused = call("--out", out, "--seed", "1")
    assert refused.exit_code == 1
    assert "holds the demo of seed 0" in refused.stderr
    assert "--force" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert (out / "models" / "stale").exists()

    assert call("--out", out, "--seed", "1", "--force").exit_code == 0
    assert not (out / "models" / "stale").exists()
    assert (out / "notes.txt").exists()


def started(out: Path) -> subprocess.Popen[str]:
    """A demo in a process of its own that has begun to work in its folder."""
    code = "from mergekit_pcb.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / ".mergekit-pcb-demo").exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_a_terminated_demo_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM is answered like Ctrl-C."""
    process = started(tmp_path / "demo")
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "Aborted!"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_training")
def test_a_killed_demo_starts_again(tmp_path: Path) -> None:
    """What it has left is removed without --force, but not while it lives."""
    out = tmp_path / "demo"
    process = started(out)
    assert "another demo is working" in call("--out", out).stderr
    process.kill()
    process.communicate()
    (out / "models").mkdir(exist_ok=True)
    (out / "models" / "stale").touch()
    assert call("--out", out).exit_code == 0
    assert not (out / "models" / "stale").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the folder, of which nothing is left."""

    def full(out: Path, seed: int, *, quiet: bool) -> dict[str, Report]:
        (out / "models").mkdir()
        raise error

    monkeypatch.setattr(command, "_run", full)
    out = tmp_path / "demo"
    line = error_line(call("--out", out))
    assert str(out) in line
    assert "No space left on device" in line
    assert not out.exists()


def test_room_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained for a disk that cannot hold it."""
    full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    out = tmp_path / "demo"
    assert f"{out} has 1.0 MB free" in error_line(call("--out", out))
    assert not out.exists()


@pytest.mark.parametrize("existed", [False, True])
def test_an_interrupted_demo_leaves_nothing(
    existed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C the folder is as it was: empty, or not there."""

    def interrupted(out: Path, seed: int, *, quiet: bool) -> dict[str, Report]:
        (out / "models" / "base").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_run", interrupted)
    out = tmp_path / "demo"
    if existed:
        out.mkdir()
    result = call("--out", out)
    assert result.exit_code == 1
    assert "Aborted" in result.output
    assert out.exists() == existed
    assert not existed or not list(out.iterdir())


@pytest.mark.usefixtures("without_training")
@pytest.mark.parametrize("activated", [True, False])
def test_what_is_said_at_the_end_can_be_copied(
    activated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe is shown, and three commands, the first of which runs as it is."""
    scripts = tmp_path / "venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "mergekit-pcb").touch(mode=0o755)
    monkeypatch.setattr(command.sysconfig, "get_path", lambda _: str(scripts))
    monkeypatch.setenv("PATH", str(scripts) if activated else "")
    monkeypatch.chdir(tmp_path)
    program = "mergekit-pcb" if activated else "venv/bin/mergekit-pcb"
    out = tmp_path / "a long name with spaces that no line of eighty columns could hold"
    result = call("--out", out)
    recipe = out / "recipes" / "pcb.yml"
    shown = result.stdout.splitlines()[-3:]
    assert shown[0] == f"  {program} inspect '{recipe}'"
    assert shown[1].startswith(f"  {program} init BASE MODEL ")
    assert shown[2].startswith(f"  {program} compare recipe.yml ")
    assert "\nmerge_method: pcb\n" in result.stdout


@pytest.mark.usefixtures("without_training")
def test_quiet_prints_tables_and_notes(tmp_path: Path) -> None:
    """Neither the introduction nor advice nor progress comes with --quiet."""
    result = call("--out", tmp_path / "demo", "--quiet")
    assert result.stderr == ""
    assert result.stdout.split()[:3] == ["A", "title", "Best:"]
    assert "nothing follows for other models." in result.stdout
    assert "init BASE" not in result.stdout


def test_help_and_refusals_do_not_wait_for_torch() -> None:
    """Importing the command imports neither torch nor mergekit."""
    code = (
        "import sys, mergekit_pcb.demo.command; "
        "print({'torch', 'transformers', 'mergekit'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"


def test_help_teaches() -> None:
    """--help says what happens, how long it takes, and every option."""
    text = call("--help").stdout
    for word in ("a minute", "downloads nothing", "--out", "--seed", "--force"):
        assert word in text


# All of it


def table(file: Path) -> dict[str, dict[str, float]]:
    """The numbers of a `comparison.csv`, by name of row and of column."""
    with file.open(encoding="utf-8") as text:
        lines = list(csv.DictReader(text))
    columns = (*DOMAINS, "mean")
    return {line["name"]: {c: float(line[c]) for c in columns} for line in lines}


def sells_merging(scores: dict[str, dict[str, float]], merges: Iterable[str]) -> None:
    """Assert what makes these toys like real suites, for whatever method wins.

    Specialists are good at their own language, and every merge is better than the
    base and every specialist on the mean.
    """
    assert sum(scores[own][own] for own in DOMAINS) / len(DOMAINS) >= 85
    inputs = max(scores[name]["mean"] for name in ("base", *DOMAINS))
    means = {name: scores[name]["mean"] for name in merges}
    assert min(means.values()) >= inputs + 5
    assert max(means.values()) >= inputs + 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_merging_works_whatever_the_seed(seed: int, tmp_path: Path) -> None:
    """Every untuned merge, `pcb` without parameters among them, gains on its inputs."""
    models = tmp_path / "models"
    with repeatable(seed):
        train_all(models, Random(seed), lambda _: lambda _: None)
    recipe = tmp_path / "pcb.yml"
    recipe.write_text(recipe_text(models), encoding="utf-8")
    compare_recipe(
        str(recipe),
        tmp_path / "untuned",
        lambda _: Accuracy(seed),
        methods=METHODS,
        merge_options={"random_seed": seed},
        quiet=True,
        in_this_process=True,
    )
    sells_merging(table(tmp_path / "untuned" / "comparison.csv"), METHODS)


@pytest.mark.slow
def test_the_demo_from_end_to_end(tmp_path: Path) -> None:
    """Specialists learn, folders load, recipes run again, and the tables are there."""
    out = tmp_path / "demo"
    result = call("--out", out)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output

    untuned = table(out / "untuned" / "comparison.csv")
    for own in DOMAINS:
        assert untuned[own][own] >= untuned["base"][own] + 5
        assert all(
            untuned[other][own] < untuned[own][own] for other in DOMAINS if other != own
        )
    assert set(untuned) == {"base", *DOMAINS, *METHODS}
    tuned = table(out / "tuned" / "comparison.csv")
    assert set(tuned) == {"base", *DOMAINS, *METHODS}
    for name in ("base", *DOMAINS):
        assert tuned[name] == untuned[name]
    for name, scores in (*untuned.items(), *tuned.items()):
        assert re.search(rf"\b{scores['mean']:.1f}", result.stdout), name
    assert "best of 6: " in result.stdout

    merged = [*(out / "untuned" / "merged").iterdir()]
    assert len(merged) == len(METHODS)
    for folder in (*(out / "models").iterdir(), *merged):
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert all(p.isfinite().all() for p in model.parameters())
        assert tokenizer("<first-am>a=")["input_ids"][0] != tokenizer.pad_token_id

    weights = "model.safetensors"
    for folder in merged:
        recipe = out / "untuned" / "recipes" / f"{folder.name}.yml"
        again = tmp_path / "again" / folder.name
        options = ["--quiet", "--random-seed", "0"]
        CliRunner().invoke(
            run_yaml.main, [str(recipe), str(again), *options], catch_exceptions=False
        )
        assert (again / weights).read_bytes() == (folder / weights).read_bytes()

    sells_merging(untuned, METHODS)
    sells_merging(tuned, METHODS)

    again = tmp_path / "my-merge"
    recipe = str(out / "recipes" / "pcb.yml")
    CliRunner().invoke(
        run_yaml.main, [recipe, str(again), "--quiet"], catch_exceptions=False
    )
    (written,) = (folder for folder in merged if folder.name.startswith("pcb-"))
    assert (again / weights).read_bytes() == (written / weights).read_bytes()
