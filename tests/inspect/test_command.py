"""`mergekit-pcb inspect` as it is called: output, files, and failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mergekit.io.tasks import LoadTensor
from safetensors.torch import save_file

from mergekit_pcb.cli import main
from mergekit_pcb.output import places
from tests.inspect.helpers import Family, assert_self_contained, call, failure
from tests.tiny import (
    fine_tune,
    invoke,
    recipe_of,
    save_family,
    save_llama,
    write_recipe,
)


def test_command_prints_tables_or_json(family: Family, tmp_path: Path) -> None:
    """Options of a merge are accepted; JSON is all there is on the standard output."""
    recipe = recipe_of(*family)
    options = ("--density", "0.3", "--no-copy-tokenizer", "--random-seed", 1)
    result = call(recipe, tmp_path, *options)
    assert result.exit_code == 0
    assert "Density 0.3, scope tensor" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yml"]
    result = call(recipe, tmp_path, "--format", "json")
    assert json.loads(result.stdout)["merge_method"] == "pcb"


def test_scopes_densities_and_layers(family: Family, tmp_path: Path) -> None:
    """Each scope with each density, the recipe's own first, with their layers."""
    options = ("--scope", "both", "--density", "0.3", "--density", "0.5", "--layers")
    lines = call(recipe_of(*family), tmp_path, *options).output.splitlines()
    assert [line for line in lines if line.startswith("Density")] == [
        "Density 0.2, scope tensor (the recipe)",
        "Density 0.3, scope tensor",
        "Density 0.5, scope tensor",
        "Density 0.2, scope model",
        "Density 0.3, scope model",
        "Density 0.5, scope model",
    ]
    assert lines.count("The same by layer") == 6
    lines = call(recipe_of(*family), tmp_path, "--scope", "model").output.splitlines()
    assert "Density 0.2, scope model" in lines
    assert "The same by layer" not in lines


def test_the_legend_goes_with_quiet(family: Family, tmp_path: Path) -> None:
    """Terms are explained unless the user wants less."""
    assert "keeps: " not in call(recipe_of(*family), tmp_path).output
    talkative = invoke(main, "inspect", tmp_path / "recipe.yml")
    assert "keeps: " in talkative.stdout


def test_base(family: Family, tmp_path: Path) -> None:
    """--base is the base model of the inspection."""
    base, tuned = family
    options = ("--base", base.path, "--format", "json")
    recipe = recipe_of(tuned[0], tuned[1:])
    document = json.loads(call(recipe, tmp_path, *options).stdout)
    assert document["base_model"] == str(base.path)


def test_help_teaches() -> None:
    """An example, and none of the options that say how to write a merge."""
    text = invoke(main, "inspect", "--help").output
    assert "$ mergekit-pcb inspect recipe.yml" in text
    assert "--lora-merge-cache" in text
    assert "--out-shard-size" not in text


def test_report_folder(family: Family, tmp_path: Path) -> None:
    """--out writes everything, beside what the folder held; nothing half-written."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "notes.txt").touch()
    result = call(recipe_of(*family), tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    index = tmp_path / "report" / "index.html"
    assert result.output.splitlines()[-1] == f"{index} shows more."
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert names == [
        "cosine.png",
        "index.html",
        "inspect.json",
        "kept-density-0.2-scope-tensor.png",
        "merged.png",
        "norms.png",
        "notes.txt",
        "tensors.csv",
        "winners-density-0.2-scope-tensor.png",
    ]
    for name in names:
        if name.endswith(".png"):
            content = (tmp_path / "report" / name).read_bytes()
            assert content.startswith(b"\x89PNG")
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert_self_contained(html)
    # Two themes of each picture.
    assert html.count("data:image/png;base64,") == 2 * 5
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_one_model_and_no_layers(tmp_path: Path) -> None:
    """Where there is nothing to compare, no picture pretends to."""
    base = {"conv1.weight": torch.ones(4, 4), "fc.weight": torch.ones(3)}
    save_file(base, tmp_path / "base.safetensors")
    save_file(fine_tune(base, 0), tmp_path / "tuned.safetensors")
    recipe = recipe_of(tmp_path / "base.safetensors", [tmp_path / "tuned.safetensors"])
    result = call(recipe, tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    pictures = sorted(path.name for path in (tmp_path / "report").glob("*.png"))
    assert pictures == ["kept-density-0.2-scope-tensor.png"]


def test_models_that_are_the_base(family: Family, tmp_path: Path) -> None:
    """There is nothing to divide by, and nothing to draw, and still a report."""
    base, _ = family
    copies = [save_llama(tmp_path / name, base.tensors) for name in ("a", "b")]
    result = call(recipe_of(base, copies), tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert "b is the base model" in result.output
    figures = json.loads((tmp_path / "report" / "inspect.json").read_text())["whole"]
    assert figures["cosines"] == [[None, None]] * 2
    assert figures["settings"][0]["merged_over_mean"] is None


def test_matplotlib_is_missing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then --out stops before any model is read; the tables need no matplotlib."""
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(LoadTensor, "execute", lambda task: pytest.fail("read"))
    said = failure(call(recipe_of(*family), tmp_path, "--out", tmp_path / "report"))
    assert said.endswith("need matplotlib: pip install 'mergekit-pcb[report]'")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call(recipe_of(*family), tmp_path).exit_code == 0
    assert not (tmp_path / "report").exists()


def test_damaged_checkpoint_leaves_nothing(family: Family, tmp_path: Path) -> None:
    """NaN is told with model and tensor; no report appears."""
    base, tuned = family
    weights = dict(tuned[0].tensors)
    weights["lm_head.weight"] = weights["lm_head.weight"] * torch.nan
    damaged = save_llama(tmp_path / "damaged", weights)
    recipe = recipe_of(base, [damaged, tuned[1]])
    said = failure(call(recipe, tmp_path, "--out", tmp_path / "report"))
    assert said.endswith(
        "holds NaN or infinity in lm_head.weight: the checkpoint is damaged"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "recipe.yml"]


def test_interruption_leaves_nothing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C there is no report, not even a hidden one."""

    def interrupted(task: LoadTensor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LoadTensor, "execute", interrupted)
    result = call(recipe_of(*family), tmp_path, "--out", tmp_path / "report")
    assert result.exit_code == 1
    assert "Aborted" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--density", "30"),
        ("--density", "nan"),
        ("--scope", "global"),
        ("--format", "xml"),
        ("--out", __file__),
    ],
    ids=" ".join,
)
def test_bad_use(arguments: tuple[str, str], family: Family, tmp_path: Path) -> None:
    """Exits with 2, and says what is accepted."""
    result = call(recipe_of(*family), tmp_path, *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


@pytest.mark.slow
def test_quiet_is_silent(tmp_path: Path) -> None:
    """No library's warning or bar reaches standard error; both kinds of recipes."""
    base, tuned = save_family(tmp_path, 1)
    files = [model.path / "model.safetensors" for model in (base, *tuned)]
    for number, recipe in enumerate(
        (recipe_of(base, tuned), recipe_of(files[0], files[1:]))
    ):
        file = write_recipe(recipe, tmp_path / f"{number}.yml")
        # A process of its own: libraries warn once in each.
        run = subprocess.run(
            [sys.executable, "-c", _INSPECT, str(file), "--quiet"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stderr == ""
        assert "pcb, 1 model fine-tuned from" in run.stdout


_INSPECT = "from mergekit_pcb.inspect.command import inspect; inspect()"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["text", "json"])
def test_standard_output_that_is_full(
    layout: str, family: Family, tmp_path: Path
) -> None:
    """One line with its path."""
    file = write_recipe(recipe_of(*family), tmp_path / "recipe.yml")
    arguments = [str(file), "--quiet", "--format", layout]
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            [sys.executable, "-c", _INSPECT, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert run.stderr == "Error: /dev/full: No space left on device\n"
    assert run.returncode == 1


def test_a_report_that_finds_no_room(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known before any model is read, or one line in the middle; nothing is left."""
    report = tmp_path / "report"

    def full(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        result = call(recipe_of(*family), tmp_path, "--out", report)
    assert result.stderr.splitlines()[-1] == (
        f"Error: {report}: No space left on device"
    )
    # What was measured is not lost.
    assert (
        result.stdout.splitlines()
        == call(recipe_of(*family), tmp_path).stdout.splitlines()
    )
    with monkeypatch.context() as patch:
        usage = SimpleNamespace(free=999)
        patch.setattr(places.shutil, "disk_usage", lambda path: usage)
        patch.setattr(LoadTensor, "execute", lambda task: pytest.fail("read"))
        said = failure(call(recipe_of(*family), tmp_path, "--out", report))
    assert said.startswith(f"{report} has 999 B free, and the files of the report need")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yml"]


def test_a_report_among_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before any model is read, for folders and for single files."""
    monkeypatch.setattr(LoadTensor, "execute", lambda task: pytest.fail("read"))
    base, tuned = save_family(tmp_path / "models", 1)
    files = [model.path / "model.safetensors" for model in (base, *tuned)]
    for recipe in (recipe_of(base, tuned), recipe_of(files[0], files[1:])):
        said = failure(call(recipe, tmp_path, "--out", tmp_path / "models"))
        assert "holds the model" in said
    recipe = recipe_of(base, tuned)
    said = failure(call(recipe, tmp_path, "--out", base.path / "report"))
    assert "lies in the model" in said
    said = failure(call(recipe, tmp_path, "--out", tuned[0].path))
    assert "is a model of the recipe" in said
    names = {path.name for path in (tmp_path / "models").rglob("*")}
    assert names == {"base", "tuned0", "config.json", "model.safetensors"}


def test_names_that_are_not_text(tmp_path: Path) -> None:
    """Escape sequences, tags and formulas in names are shown, and act on nothing."""
    folder = tmp_path / "a\x1b[31m<script>$\\frac$|"
    base = {"x\x1b[2J\n<script>.weight": torch.ones(4, 4), "y.0.weight": torch.ones(9)}
    folder.mkdir()
    save_file(base, folder / "base.safetensors")
    for i in (1, 2):
        name = f"{i}\x1b[31m<script>$\\frac$|.safetensors"
        save_file(fine_tune(base, i), folder / name)
    models = sorted(folder.glob("[12]*"))
    recipe = recipe_of(folder / "base.safetensors", models)
    result = call(recipe, tmp_path, "--layers", "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "\x1b" not in html
    assert "<script" not in html
    save_file({"z": torch.ones(1)}, models[0])
    models[1].unlink()
    assert "\x1b" not in call(recipe, tmp_path).output
