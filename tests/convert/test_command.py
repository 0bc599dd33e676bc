"""The command `mergekit-pcb convert`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.cli import main
from tests.tiny import error_line

TIES = """\
models:
  - {model: org/math, parameters: {weight: 0.6, density: 0.5}}
  - {model: org/code, parameters: {weight: 0.3, density: 0.5}}
merge_method: ties
base_model: org/base
"""


@pytest.fixture(autouse=True)
def _recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ties.yml").write_text(TIES)


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["convert", *arguments], input=stdin)


@pytest.mark.parametrize("source", ["ties.yml", "-"])
def test_printed(source: str) -> None:
    """The recipe alone goes to standard output, and the next steps beside it."""
    result = run(source, stdin=TIES)
    assert result.exit_code == 0
    assert check_recipe(result.stdout, "recipe.yml") == []
    assert result.stderr == (
        "save this as recipe.yml; next:\n"
        "  mergekit-pcb check recipe.yml\n"
        "  mergekit-yaml recipe.yml merged/\n"
    )


def test_written() -> None:
    """`--out` writes what would be printed, and replaces nothing unless forced."""
    printed = run("ties.yml").stdout
    result = run("ties.yml", "--out", "a b.yml")
    assert result.stdout == ""
    assert result.stderr.splitlines()[0] == "a b.yml: written; next:"
    assert "  mergekit-yaml 'a b.yml' merged/" in result.stderr
    assert Path("a b.yml").read_text() == printed
    refused = run("ties.yml", "--out", "ties.yml")
    assert error_line(refused) == (
        "ties.yml exists: choose another --out, or add --force"
    )
    assert Path("ties.yml").read_text() == TIES
    assert run("ties.yml", "--out", "ties.yml", "--force").exit_code == 0
    assert Path("ties.yml").read_text() == printed


def test_errors_leave_nothing() -> None:
    """A recipe that cannot be converted is one line, and no file."""
    Path("linear.yml").write_text(TIES.replace("ties", "passthrough"))
    assert "linear.yml" in error_line(run("linear.yml", "--out", "new.yml"))
    assert not Path("new.yml").exists()
    Path("file").write_text("")
    line = error_line(run("ties.yml", "--out", "file/new.yml"))
    assert line.startswith("file/new.yml: ")
    assert run("nowhere.yml").exit_code == 2


def test_what_check_still_says_is_a_note() -> None:
    """Settings that stay may deserve a word."""
    result = run("-", stdin=TIES + "tokenizer_source: union\n")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: `union` makes up embedding rows")


def test_several_merges() -> None:
    """The next command is that for several merges."""
    text = f"name: one\n{TIES}---\nname: two\n{TIES}"
    result = run("-", stdin=text)
    assert "  mergekit-multi recipe.yml -I merged/\n" in result.stderr


@pytest.mark.parametrize("name", ["convert", "init"])
def test_help_teaches(name: str) -> None:
    """It has an example, and appears without mergekit."""
    code = (
        "import sys; from mergekit_pcb.cli import main\n"
        "try: main()\n"
        "except SystemExit: sys.exit(bool({'torch', 'mergekit'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MERGEKIT_PCB_AUTOLOAD": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert f"$ mergekit-pcb {name} " in done.stdout
