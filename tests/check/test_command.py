"""The command `mergekit-pcb check` and the functions behind it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mergekit
import pytest
import yaml
from click.testing import CliRunner, Result
from mergekit.config import MergeConfiguration

from mergekit_pcb.check import command as check_module
from mergekit_pcb.check.command import check
from mergekit_pcb.check.linter import check_recipe, examine
from mergekit_pcb.check.rules import RULES
from mergekit_pcb.plugin.unknown_parameters import unknown_parameters
from mergekit_pcb.recipes.findings import Finding

RIGHT = """\
models:
  - model: org/math
  - model: org/code
merge_method: pcb
base_model: org/base
"""
ADVICE = RIGHT + "parameters: {int8_mask: true}\n"
WRONG = RIGHT + "parameters: {lamda: 1.2}\n"


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("right", RIGHT), ("advice", ADVICE), ("wrong", WRONG)):
        Path(f"{name}.yml").write_text(text)


def _run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(check, arguments, input=stdin)


def test_right_recipe() -> None:
    """A recipe without findings is one friendly line and status 0."""
    result = _run("right.yml")
    assert (result.exit_code, result.output) == (
        0,
        "right.yml: ok (pcb, base and 2 models)\n",
    )


def test_wrong_recipe() -> None:
    """Errors are printed with a summary and end with status 1."""
    result = _run("wrong.yml")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "wrong.yml:6:14: error: `pcb` has no parameter `lamda`; did you mean `lambda`?",
        "1 error in wrong.yml",
    ]


def test_advice_is_no_failure_unless_strict() -> None:
    """Advice ends with status 0, and with 1 under `--strict`."""
    assert _run("advice.yml").exit_code == 0
    assert _run("advice.yml").output.splitlines()[-1] == "1 advice in advice.yml"
    assert _run("--strict", "advice.yml").exit_code == 1
    assert _run("--strict", "right.yml").exit_code == 0


def test_several_recipes() -> None:
    """Each recipe has its summary, and one wrong one is enough for status 1."""
    result = _run("right.yml", "wrong.yml", "advice.yml")
    assert result.exit_code == 1
    assert [line for line in result.output.splitlines() if ":6:" not in line] == [
        "right.yml: ok (pcb, base and 2 models)",
        "1 error in wrong.yml",
        "1 advice in advice.yml",
    ]


def test_quiet() -> None:
    """With `--quiet` only errors are printed."""
    assert _run("-q", "right.yml", "advice.yml").output == ""
    assert _run("-q", "wrong.yml").output.count("\n") == 1


def test_quiet_json() -> None:
    """It lists and counts what is shown."""
    report = json.loads(
        _run("-q", "--format", "json", "wrong.yml", "advice.yml").output
    )
    assert (report["errors"], report["advice"]) == (1, 0)
    assert [finding["severity"] for finding in report["findings"]] == ["error"]


def test_json() -> None:
    """`--format json` is one object with counts and every field of a finding."""
    result = _run("--format", "json", "wrong.yml", "advice.yml")
    report = json.loads(result.output)
    assert result.exit_code == 1
    assert (report["errors"], report["advice"]) == (1, 1)
    assert report["findings"][0] == {
        "file": "wrong.yml",
        "line": 6,
        "column": 14,
        "severity": "error",
        "message": "`pcb` has no parameter `lamda`",
        "fix": "did you mean `lambda`?",
        "path": "parameters.lamda",
        "rule": "unknown-parameter",
    }


def test_rules() -> None:
    """`--rules` needs no recipe and prints one line for each id."""
    result = _run("--rules")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == list(RULES)
    for rule, description in RULES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule)
        assert re.fullmatch(r"[A-Z].*\.", description)


def test_standard_input() -> None:
    """`-` reads the recipe from standard input."""
    result = _run("-", stdin=WRONG)
    assert result.output.startswith("stdin:6:14: error:")
    assert result.exit_code == 1


@pytest.mark.parametrize(
    "arguments", [(), ("no-such.yml",), ("--kind", "moe", "right.yml"), (".",)]
)
def test_bad_use(arguments: tuple[str, ...]) -> None:
    """Wrong use of the command itself ends with status 2."""
    assert _run(*arguments).exit_code == 2


def test_no_colour_when_piped() -> None:
    """Colour is for terminals."""
    assert "\x1b[" not in _run("wrong.yml").output
    coloured = CliRunner().invoke(check, ["wrong.yml"], color=True)
    assert "\x1b[31m\x1b[1merror\x1b[0m" in coloured.output


def test_not_text() -> None:
    """A file that is no text is an error of its own."""
    Path("model.yml").write_bytes(b"\xff\xfe\x00")
    result = _run("model.yml")
    assert result.output.startswith("model.yml:1:1: error: model.yml is not UTF-8 text")
    assert result.exit_code == 1
    report = json.loads(_run("--format", "json", "model.yml").output)
    assert report["findings"][0]["rule"] == "not-text"


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n"])
def test_empty_recipe(text: str) -> None:
    """An empty recipe is an error on its first line."""
    (finding,) = check_recipe(text, "r.yml")
    assert str(finding) == (
        "r.yml:1:1: error: the recipe is empty; begin with `merge_method:`"
    )


def test_help_has_an_example() -> None:
    """The help shows what goes in and what comes out."""
    output = _run("--help").output
    assert "$ mergekit-pcb check recipe.yml" in output
    assert "did you mean `density`?" in output


def test_importing_the_command_imports_little() -> None:
    """Help needs neither mergekit nor torch."""
    code = (
        "import sys, mergekit_pcb.check.command; "
        "sys.exit(any(m in sys.modules for m in ('mergekit', 'torch', 'yaml')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    tree = ast.parse(inspect.getsource(check_module))
    imported = [node for node in tree.body if isinstance(node, ast.Import)]
    assert [name.name for node in imported for name in node.names] == ["click"]


def test_kind_multi_is_seen() -> None:
    """Several documents are a recipe for mergekit-multi."""
    text = f"name: first\n{RIGHT}---\n{RIGHT.replace('org/math', 'first')}"
    Path("multi.yml").write_text(text)
    assert _run("multi.yml").output == "multi.yml: ok (2 merges: pcb, pcb)\n"


def test_kind_can_be_forced() -> None:
    """The same files are wrong for a command that reads them otherwise."""
    second = RIGHT.replace("org/math", "first")
    Path("multi.yml").write_text(f"name: first\n{RIGHT}---\n{second}")
    result = _run("--kind", "yaml", "multi.yml")
    assert (
        "multi.yml:8:1: error: mergekit-yaml reads one recipe a file" in result.output
    )
    assert (
        "the file `org/math` does not exist"
        in _run("--kind", "pytorch", "right.yml").output
    )


def test_kind_pytorch_is_seen() -> None:
    """Models that are weight files make a recipe for mergekit-pytorch."""
    for name in ("math.bin", "code.pt"):
        Path(name).write_bytes(b"\x80\x02")
    Path("base.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    text = RIGHT.replace("org/math", "math.bin").replace("org/code", "code.pt")
    text = text.replace("org/base", "base.safetensors")
    assert check_recipe(text, "r.yml") == []
    (finding,) = check_recipe(text + "tokenizer_source: base\n", "r.yml")
    assert finding.message == "mergekit-pytorch does not read `tokenizer_source`"
    lists = "parameters: {density: [{filter: a, value: high}, {value: [0.1, 0.2]}]}\n"
    refused, gradient = check_recipe(text + lists, "r.yml")
    assert refused.message.endswith("got 'high'")
    assert gradient.message.startswith("mergekit-pytorch knows no layers")


@pytest.mark.parametrize("kind", ["yaml", "multi", "pytorch"])
def test_the_command_that_takes_a_recipe(kind: str) -> None:
    """It is seen from the recipe, so that others can be named."""
    text = {
        "yaml": RIGHT,
        "multi": f"name: first\n{RIGHT}---\n{RIGHT}",
        "pytorch": "merge_method: linear\nmodels: [{model: a.bin}, {model: b.bin}]\n",
    }[kind]
    assert examine(text, "r.yml").command == f"mergekit-{kind}"


def test_aliases_are_told_once() -> None:
    """A mistake that YAML aliases repeat is one finding."""
    text = (
        "models:\n"
        "  - {model: org/math, parameters: &shared {densty: 0.2}}\n"
        "  - {model: org/code, parameters: *shared}\n"
        "merge_method: pcb\n"
        "base_model: org/base\n"
    )
    assert len(check_recipe(text, "r.yml")) == 1


def test_finding_is_one_line() -> None:
    """A finding prints as one line, whatever it quotes, and cannot be changed."""
    finding = Finding("r.yml", 1, 2, "error", "a\nb", "c\n  d")
    assert str(finding) == "r.yml:1:2: error: a b; c d"
    with pytest.raises(dataclasses.FrozenInstanceError):
        finding.line = 2  # type: ignore[misc]


def test_check_and_unknown_parameters_agree() -> None:
    """What stops a merge is what check calls an error."""
    text = ADVICE.replace("int8_mask", "rescale")
    assert [f.severity for f in check_recipe(text, "r.yml")] == ["advice"]
    assert (
        unknown_parameters(MergeConfiguration.model_validate(yaml.safe_load(text)))
        == []
    )


def test_residual_weight_is_still_declared_only() -> None:
    """The one key that check calls useless is read nowhere in mergekit."""
    sources = Path(mergekit.__file__).parent.rglob("*.py")
    users = [path.name for path in sources if "residual_weight" in path.read_text()]
    assert users == ["config.py"]


@pytest.mark.parametrize("layout", ["text", "json"])
def test_names_do_not_steer_the_terminal(layout: str) -> None:
    """What a recipe holds is printed without control characters."""
    name = "a\x1b[31m\x9b\u202eb"
    file = Path(f"{name}.yml")
    file.write_text(RIGHT + 'parameters: {"x\\e[31m\\u009b": 1}\n')
    output = _run("--format", layout, str(file)).output
    assert not [c for c in output if not c.isprintable() and c != "\n"]
    if layout == "json":
        (finding,) = json.loads(output)["findings"]
        assert finding["file"] == str(file)


def test_what_is_no_file() -> None:
    """A pipe is not waited for, and other recipes are still checked."""
    os.mkfifo("pipe.yml")
    result = _run("pipe.yml", "right.yml")
    assert result.output.startswith("pipe.yml:1:1: error: pipe.yml is a pipe")
    assert "right.yml: ok" in result.output
    assert result.exit_code == 1
