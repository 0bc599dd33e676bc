"""The demo: its languages, its models, its table, its folder, and all of it at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from mergekit.config import MergeConfiguration
from mergekit.merge_methods import get as merge_method
from mergekit.scripts import run_yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_pcb.cli import main
from mergekit_pcb.demo import command as demo_module
from mergekit_pcb.demo.command import GRID, UNTUNED, Merge
from mergekit_pcb.demo.models import accuracy, new_model, new_tokenizer, repeatable
from mergekit_pcb.demo.report import Row, introduction, notes, results_table
from mergekit_pcb.demo.tasks import (
    DOMAINS,
    END,
    SPLITS,
    Item,
    held_out,
    split_of,
    training_items,
)

MARKER = demo_module._MARKER


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["demo", *map(str, arguments)])


# The languages


@pytest.mark.parametrize(
    ("domain", "answer"),
    [("sort", "aberz"), ("reverse", "arbez"), ("shift", "afcsb")],
)
def test_each_language_does_what_its_name_says(domain: str, answer: str) -> None:
    """A word is sorted, reversed, or moved on by one letter with z back to a."""
    assert Item(domain, "zebra").answer == answer


def test_a_text_is_prompt_answer_and_end() -> None:
    """What is trained on begins with what is asked and ends where to stop."""
    item = Item("sort", "cab")
    assert item.prompt == "<sort>cab="
    assert item.text == f"<sort>cab=abc{END}"


def test_the_seed_decides_the_items() -> None:
    """The same seed gives the same items, and another seed gives others."""

    def drawn(seed: int) -> tuple[list[Item], list[Item]]:
        rng = Random(seed)
        return training_items(50, rng), held_out("sort", 50, rng, "test")

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_no_word_is_in_two_splits() -> None:
    """Words to train on, to tune on and to test on are disjoint whatever the seed."""
    trained = {item.word for item in training_items(5000, Random(0))}
    tuned = {i.word for i in held_out("sort", 500, Random(1), "validation")}
    tested = {i.word for i in held_out("shift", 500, Random(2), "test")}
    assert not trained & tuned
    assert not trained & tested
    assert not tuned & tested
    assert {split_of(word) for word in trained | tuned | tested} == set(SPLITS)


def test_held_out_items_are_different_items() -> None:
    """As many different words come as were asked for, all of one domain."""
    items = held_out("reverse", 300, Random(0), "test")
    assert len(set(items)) == len(items) == 300
    assert {item.domain for item in items} == {"reverse"}


def test_a_specialist_sees_mostly_its_own_domain() -> None:
    """The share goes to the own domain, the rest to a mixture of all of them."""
    general = [item.domain for item in training_items(3000, Random(0))]
    special = [item.domain for item in training_items(3000, Random(0), "sort", 0.7)]
    only = [item.domain for item in training_items(100, Random(0), "sort")]
    assert all(0.28 < general.count(d) / 3000 < 0.38 for d in DOMAINS)
    assert 0.76 < special.count("sort") / 3000 < 0.84  # 0.7 + 0.3 / 3
    assert set(special) == set(DOMAINS)
    assert set(only) == {"sort"}


# The models


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
    [((), 100.0), ((0, 1, 2, 3), 100.0), ((5,), 0.0), ((7,), 0.0), ((9,), 50.0)],
    ids=["perfect", "word", "first letter", "end or letter", "only one end"],
)
def test_an_item_counts_when_its_whole_answer_is_right(
    wrong_at: tuple[int, ...], expected: float
) -> None:
    """Every letter of the answer and the end must be right; nothing else matters."""
    tokenizer = new_tokenizer()
    items = [Item("sort", "cba"), Item("reverse", "abcd")]
    model: Any = Parrot(len(tokenizer), wrong_at)
    assert accuracy(model, tokenizer, items) == expected


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


# The merges


def test_every_method_with_settings_is_tuned_over_equally_many() -> None:
    """No method gets more tries than another; only linear has nothing to tune."""
    assert {len(demo_module._candidates(method)) for method in GRID} == {9}
    assert {merge.method for merge in UNTUNED} == {*GRID, "linear"}


@pytest.mark.parametrize("merge", UNTUNED, ids=lambda merge: merge.method)
def test_recipes_are_what_mergekit_accepts(merge: Merge, tmp_path: Path) -> None:
    """A recipe parses, names a known method, and sets only what the method has."""
    recipe = yaml.safe_load(demo_module._recipe(merge, tmp_path))
    config = MergeConfiguration.model_validate(recipe)
    known = {parameter.name for parameter in merge_method(merge.method).spec.parameters}
    assert set(recipe["parameters"]) <= known
    assert config.merge_method == merge.method
    assert all(Path(str(m)).is_absolute() for m in config.referenced_models())


# The table


def rows(**changes: float) -> list[Row]:
    """A table where pcb is best untuned and ties is best tuned, except for changes."""

    def scores(mean: float) -> dict[str, float]:
        return dict.fromkeys(DOMAINS, mean)

    specialists = [
        Row("specialist", "specialist", own, scores(30) | {own: 90}) for own in DOMAINS
    ]
    return [
        Row("base", "base", "", scores(40)),
        *specialists,
        Row("untuned", "pcb", "density 0.1, lambda 1", scores(60) | changes),
        Row("untuned", "ties", "density 0.2, lambda 1", scores(50)),
        Row("tuned", "pcb", "density 0.5, lambda 1.4", scores(61)),
        Row("tuned", "dare_ties", "density 0.5, weight 0.28", scores(62)),
    ]


def printed(table: Any, **options: Any) -> str:
    console = Console(width=80, **options)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def cells(text: str) -> dict[str, list[str]]:
    """The numbers of every line, by what stands before them."""
    split = [line.split() for line in text.splitlines()]
    return {" ".join(s[:-4]): s[-4:] for s in split if s and s[-1][0].isdigit()}


def test_the_best_merge_of_each_block_is_marked() -> None:
    """Untuned merges are not measured against tuned ones, nor against models."""
    found = cells(printed(results_table(rows(shift=10))))
    assert found["specialist sort"] == ["90.0", "30.0", "30.0", "50.0"]
    assert found["pcb density 0.1, lambda 1"] == ["60.0*", "60.0*", "10.0", "43.3"]
    assert found["ties density 0.2, lambda 1"] == ["50.0", "50.0", "50.0*", "50.0*"]
    assert found["dare_ties density 0.5, weight 0.28"] == ["62.0*"] * 4


def test_merges_that_print_alike_are_equally_best() -> None:
    """A difference that cannot be seen does not make a winner."""
    found = cells(printed(results_table(rows(sort=50.04, reverse=0, shift=0))))
    assert found["pcb density 0.1, lambda 1"][0] == "50.0*"
    assert found["ties density 0.2, lambda 1"][0] == "50.0*"


def test_the_best_is_bold_on_a_terminal_only() -> None:
    """A terminal gets bold numbers, a file gets no escape codes."""
    on_terminal = printed(
        results_table(rows()), force_terminal=True, color_system="standard"
    )
    assert "\x1b[1m60.0*" in on_terminal
    assert "\x1b[1m50.0" not in on_terminal
    assert "\x1b" not in printed(results_table(rows()))


def test_the_widest_table_fits_eighty_columns() -> None:
    """Every row takes one line, however long its settings are."""
    merges = [m for method in GRID for m in demo_module._candidates(method)]
    full = dict.fromkeys(DOMAINS, 100.0)
    text = printed(
        results_table([Row("tuned", m.method, m.settings, full) for m in merges])
    )
    assert len(cells(text)) == len(merges)
    assert all(line.rstrip().endswith("100.0*") for line in text.splitlines()[5:-1])


def test_the_notes_name_the_winners_and_what_they_are_worth() -> None:
    """Whichever method wins is named, with how little that proves."""
    text = notes(rows(), 500, 100)
    assert "pcb 60.0 untuned, dare_ties 62.0 tuned" in text
    assert "The base has 40.0" in text
    assert "each in its own language, 90.0" in text
    assert "ties 70.0 untuned" in notes(
        [*rows(), Row("untuned", "ties", "", dict.fromkeys(DOMAINS, 70.0))], 500, 100
    )
    for word in ("500 held-out", "100 other words", "One seed", "toy"):
        assert word in text


def test_the_introduction_shows_every_language() -> None:
    """Each language is explained by one solved example."""
    for domain in DOMAINS:
        item = Item(domain, "merge")
        assert f"{item.prompt}{item.answer}" in introduction()


# The folder


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the minute of training by a few files and a made-up table."""

    def run(out: Path, seed: int, open_bar: object) -> list[Row]:
        (out / "models").mkdir()
        (out / "recipes").mkdir()
        (out / "recipes" / "pcb.yml").write_text("# header\nmerge_method: pcb\n")
        return rows()

    monkeypatch.setattr(demo_module, "_run", run)


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
def test_an_earlier_demo_is_replaced_only_by_force(tmp_path: Path) -> None:
    """A second run is refused; --force replaces the demo's files and no others."""
    out = tmp_path / "demo"
    assert call("--out", out).exit_code == 0
    (out / "models" / "stale").touch()
    (out / "notes.txt").touch()

    refused = call("--out", out)
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert (out / "models" / "stale").exists()

    assert call("--out", out, "--force").exit_code == 0
    assert not (out / "models" / "stale").exists()
    assert (out / "notes.txt").exists()


@pytest.mark.parametrize("existed", [False, True])
def test_an_interrupted_demo_leaves_nothing(
    existed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C the folder is as it was: empty, or not there."""

    def interrupted(out: Path, seed: int, open_bar: object) -> list[Row]:
        (out / "models" / "base").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_module, "_run", interrupted)
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
    """The recipe is shown without its comment, and the command runs as it stands."""
    scripts = tmp_path / "venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "mergekit-yaml").touch(mode=0o755)
    monkeypatch.setattr(demo_module.sysconfig, "get_path", lambda _: str(scripts))
    monkeypatch.setenv("PATH", str(scripts) if activated else "")
    monkeypatch.chdir(tmp_path)
    command = "mergekit-yaml" if activated else "venv/bin/mergekit-yaml"
    out = tmp_path / "a long name with spaces that no line of eighty columns could hold"
    result = call("--out", out)
    recipe = out / "recipes" / "pcb.yml"
    assert f"\n  {command} '{recipe}' my-merge\n" in result.stdout
    assert "\nmerge_method: pcb\n" in result.stdout
    assert "# header" not in result.stdout


@pytest.mark.usefixtures("without_training")
def test_quiet_prints_the_table_and_its_notes(tmp_path: Path) -> None:
    """Neither the introduction nor advice nor progress comes with --quiet."""
    result = call("--out", tmp_path / "demo", "--quiet")
    assert result.stderr == ""
    assert result.stdout.split()[0] == "model"
    assert "mergekit-yaml" not in result.stdout


@pytest.mark.usefixtures("without_training")
def test_results_are_kept_with_the_versions_that_made_them(tmp_path: Path) -> None:
    """The table is also a JSON file."""
    call("--out", tmp_path, "--seed", "3")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seed"] == 3
    assert results["rows"] == [row._asdict() for row in rows()]
    assert results["versions"]["mergekit"].startswith("0.1.")
    assert (tmp_path / MARKER).exists()


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
    for word in ("two minutes", "downloads nothing", "--out", "--seed", "--force"):
        assert word in text


# All of it


@pytest.mark.slow
def test_the_demo_from_end_to_end(tmp_path: Path) -> None:
    """Specialists learn, folders load, recipes run again, and the table is there."""
    out = tmp_path / "demo"
    result = call("--out", out)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output

    table = json.loads((out / "results.json").read_text())["rows"]
    base = table[0]["scores"]
    specialists = [row for row in table if row["kind"] == "specialist"]
    for row in specialists:
        own = row["settings"]
        assert row["scores"][own] >= base[own] + 15
        assert all(
            other["scores"][own] < row["scores"][own]
            for other in specialists
            if other is not row
        )

    shown = cells(result.stdout)
    for row in table:
        assert f"{row['name']} {row['settings']}".strip() in shown
    assert {row["name"] for row in table if row["kind"] == "untuned"} == {
        "pcb",
        "ties",
        "dare_ties",
        "task_arithmetic",
        "linear",
    }

    folders = [*(out / "models").iterdir(), *(out / "merged").iterdir()]
    assert len(folders) == 1 + len(DOMAINS) + len(UNTUNED) + len(GRID)
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert all(p.isfinite().all() for p in model.parameters())
        assert tokenizer("<sort>a=")["input_ids"][0] != tokenizer.pad_token_id

    for recipe in (out / "recipes").iterdir():
        MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text()))
        command = recipe.read_text().splitlines()[0].split()
        options = command[command.index("OUTPUT_FOLDER") + 1 :]
        again = tmp_path / "again" / recipe.stem
        CliRunner().invoke(
            run_yaml.main,
            [str(recipe), str(again), "--quiet", *options],
            catch_exceptions=False,
        )
        weights = "model.safetensors"
        written = (out / "merged" / recipe.stem / weights).read_bytes()
        assert (again / weights).read_bytes() == written
