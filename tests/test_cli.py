"""The command `mergekit-pcb`: its start-up and `merge`."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from mergekit.scripts import run_yaml
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from mergekit_pcb import __version__
from mergekit_pcb.cli import SUBCOMMANDS, main
from mergekit_pcb.commands import merge

MODELS = ("base", "one", "two")
QUIET = ("--no-copy-tokenizer", "--quiet")
AS_COMMAND = "from mergekit_pcb.cli import main; main()"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three Llama models of a few thousand parameters."""
    folder = tmp_path_factory.mktemp("models")
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    for seed, name in enumerate(MODELS):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder / name)
    return folder


@pytest.fixture
def recipe(models: Path, tmp_path: Path) -> Path:
    return write_recipe(models, tmp_path)


def write_recipe(models: Path, folder: Path, **parameters: Any) -> Path:
    base, *others = (str(models / name) for name in MODELS)
    path = folder / "recipe.yml"
    content = {
        "merge_method": "pcb",
        "base_model": base,
        "models": [
            {"model": other, "parameters": {"density": 0.2} | parameters}
            for other in others
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(
    code: str, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "MERGEKIT_PCB_AUTOLOAD"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=kept | variables,
        check=False,
    )


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(argument: str) -> None:
    """The command answers --help and --version without torch and mergekit."""
    code = (
        "import sys\n"
        "from mergekit_pcb.cli import main\n"
        f"main([{argument!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'mergekit', 'transformers', 'numpy', 'yaml'}\n"
        "print(heavy & set(sys.modules))"
    )
    result = run(code)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "set()"
    if argument == "--version":
        assert __version__ in result.stdout
    else:
        assert all(name in result.stdout for name in SUBCOMMANDS)


@pytest.mark.parametrize("name", sorted(SUBCOMMANDS))
def test_every_subcommand_is_where_the_table_says(name: str) -> None:
    """The lazy table names real commands."""
    module = importlib.import_module(f"mergekit_pcb.{SUBCOMMANDS[name][0]}")
    assert isinstance(getattr(module, name), click.Command)
    shown = call(name, "--help")
    assert shown.exit_code == 0
    assert f"$ mergekit-pcb {name}" in shown.output, "help teaches with an example"


def test_an_unknown_subcommand_is_bad_use() -> None:
    """A subcommand that does not exist exits with 2."""
    result = call("nonsense")
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: No such command 'nonsense'.\n")


def test_a_mistyped_subcommand_is_corrected() -> None:
    """What was probably meant is named."""
    result = call("chek", "recipe.yml")
    assert result.exit_code == 2
    line = "Error: No such command 'chek'; did you mean `check`?"
    assert result.stderr.splitlines()[-1] == line


def test_merge_takes_the_arguments_of_mergekit_yaml() -> None:
    """Every parameter is mergekit-yaml's own, but the last."""
    *theirs, ours = merge.merge.params
    assert theirs == run_yaml.main.params
    assert ours.name == "save_statistics"


def test_merge_writes_what_mergekit_yaml_writes(recipe: Path, tmp_path: Path) -> None:
    """The same files with the same content, model card included."""
    ours, theirs = tmp_path / "a" / "merged", tmp_path / "b" / "merged"
    assert call("merge", recipe, f"{ours}{os.sep}", *QUIET).output == ""
    result = CliRunner().invoke(run_yaml.main, [str(recipe), str(theirs), *QUIET])
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in ours.iterdir())
    assert names == sorted(path.name for path in theirs.iterdir())
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert "# merged" in (ours / "README.md").read_text()
    assert [path.name for path in ours.parent.iterdir()] == ["merged"]


def bad_density(models: Path, tmp_path: Path) -> Path:
    return write_recipe(models, tmp_path, density=30)


def missing_recipe(models: Path, tmp_path: Path) -> Path:
    return tmp_path / "no-such.yml"


def not_yaml(models: Path, tmp_path: Path) -> Path:
    (tmp_path / "broken.yml").write_text("models: [\n- x: }")
    return tmp_path / "broken.yml"


def empty_recipe(models: Path, tmp_path: Path) -> Path:
    (tmp_path / "empty.yml").write_text("")
    return tmp_path / "empty.yml"


def no_models(models: Path, tmp_path: Path) -> Path:
    (tmp_path / "none.yml").write_text("merge_method: pcb\n")
    return tmp_path / "none.yml"


def unknown_method(models: Path, tmp_path: Path) -> Path:
    path = write_recipe(models, tmp_path)
    path.write_text(path.read_text().replace("pcb", "bcp"))
    return path


def nan_in_a_checkpoint(models: Path, tmp_path: Path) -> Path:
    path = _with_changed_model(models, tmp_path)
    weights = load_file(tmp_path / "changed" / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "changed" / "model.safetensors", {"format": "pt"})
    return path


def truncated_checkpoint(models: Path, tmp_path: Path) -> Path:
    path = _with_changed_model(models, tmp_path)
    weights = tmp_path / "changed" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return path


def _with_changed_model(models: Path, tmp_path: Path) -> Path:
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (models / "two").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    path = write_recipe(models, tmp_path)
    path.write_text(path.read_text().replace(str(models / "two"), str(changed)))
    return path


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (bad_density, "recipe.yml:6:14: density must be in (0, 1], got 30"),
        (missing_recipe, "no-such.yml: No such file or directory"),
        (not_yaml, "broken.yml:2:"),
        (empty_recipe, "empty.yml:1:1: the recipe is empty"),
        (no_models, "none.yml:1:1: there is nothing to merge here"),
        (unknown_method, "there is no merge method `bcp`"),
        (nan_in_a_checkpoint, "model.norm.weight"),
        (truncated_checkpoint, "model.safetensors is cut off after"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    models: Path, tmp_path: Path, bad: Any, says: str
) -> None:
    """Exit status 1, one `Error:` line, and no output folder, not even a hidden one."""
    path = bad(models, tmp_path)
    result = call("merge", path, tmp_path / "out" / "merged", *QUIET)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert says in line
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "command",
    [
        ("merge", "RECIPE", "OUT"),
        ("inspect", "RECIPE"),
        ("compare", "RECIPE", "--out", "OUT", "--evaluate", "math:sin"),
        ("search", "RECIPE", "--out", "OUT"),
    ],
)
def test_a_device_that_is_not_there(
    recipe: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Every command that takes one says so in the same line, before it begins."""
    places = {"RECIPE": recipe, "OUT": tmp_path / "out" / "found"}
    words = [places.get(word, word) for word in command]
    result = call(*words, "--device", "nosuch")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: torch cannot compute on the device nosuch here")
    assert not (tmp_path / "out" / "found" / "candidates.jsonl").exists()


def test_verbose_shows_where_the_error_came_from(models: Path, tmp_path: Path) -> None:
    """With -v the traceback precedes the line."""
    result = call("merge", bad_density(models, tmp_path), tmp_path / "merged", "-v")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_a_missing_argument_is_bad_use(recipe: Path) -> None:
    """Without an output path the exit status is 2."""
    assert call("merge", recipe).exit_code == 2


def test_an_existing_folder_is_merged_into(recipe: Path, tmp_path: Path) -> None:
    """What mergekit writes is replaced, what it does not stays, as in mergekit-yaml."""
    out = tmp_path / "merged"
    (out / "notes").mkdir(parents=True)
    (out / "notes" / "mine.txt").write_text("mine")
    (out / "config.json").write_text("old")
    assert call("merge", recipe, out, *QUIET).exit_code == 0
    assert (out / "notes" / "mine.txt").read_text() == "mine"
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"


def test_a_failed_merge_leaves_an_existing_folder_alone(
    models: Path, tmp_path: Path
) -> None:
    """Not even the files that mergekit writes first are replaced."""
    out = tmp_path / "merged"
    out.mkdir()
    (out / "config.json").write_text("old")
    path = nan_in_a_checkpoint(models, tmp_path)
    assert call("merge", path, out, *QUIET).exit_code == 1
    assert [p.name for p in out.iterdir()] == ["config.json"]
    assert (out / "config.json").read_text() == "old"


def test_ctrl_c_cleans_up(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted merge leaves nothing, though most of it was written."""

    def interrupted(config: Any, out_path: str, **_: Any) -> None:
        Path(out_path).mkdir()
        Path(out_path, "model.safetensors").write_text("much")
        raise KeyboardInterrupt

    monkeypatch.setattr(run_yaml, "run_merge", interrupted)
    result = call("merge", recipe, tmp_path / "out" / "merged")
    assert result.exit_code == 1
    assert "Aborted!" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_merge_needs_no_start_up_file(recipe: Path, tmp_path: Path) -> None:
    """With the hook switched off, `mergekit-pcb merge` still knows pcb."""
    out = tmp_path / "merged"
    result = run(AS_COMMAND, "merge", recipe, out, *QUIET, MERGEKIT_PCB_AUTOLOAD="0")
    assert result.returncode == 0, result.stderr
    assert (out / "config.json").is_file()


def test_letters_that_a_terminal_lacks_do_not_end_a_command(tmp_path: Path) -> None:
    """They are written as escapes."""
    recipe = tmp_path / "größe\u2013r.yml"
    recipe.write_text("merge_method: pcb\n")
    code = [sys.executable, "-c", AS_COMMAND, "check", str(recipe)]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(code, env=environment, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert rb"\u2013r.yml:1:1: error" in done.stdout


def test_models_that_may_not_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every command that looks into a folder, in one line."""
    model = tmp_path / "closed" / "model"
    recipe = tmp_path / "r.yml"
    recipe.write_text(
        f"merge_method: ties\nbase_model: {model}\nmodels: [model: {model}]\n"
    )
    stat = Path.stat

    def closed(path: Path, **more: Any) -> os.stat_result:
        if "closed" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", closed)
    for arguments in (["check", recipe], ["convert", recipe], ["init", model, model]):
        result = CliRunner().invoke(main, [*map(str, arguments)])
        assert result.exit_code == 1, result.output
        first, *_ = result.output.splitlines()
        assert f"rror: {model}" in first
        assert first.endswith("Permission denied")
        assert "Traceback" not in result.output
