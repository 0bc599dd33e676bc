"""Parameters that a recipe's method does not have, found while mergekit plans."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mergekit import merge_methods
from mergekit.config import MergeConfiguration

import mergekit_pcb  # noqa: F401  # registers pcb where the start-up file does not run
from mergekit_pcb.plugin.unknown_parameters import (
    unknown_parameter,
    unknown_parameters,
)
from tests.tiny import QUIET, recipe_of, save_family, write_recipe


def _configuration(text: str) -> MergeConfiguration:
    return MergeConfiguration.model_validate(yaml.safe_load(text))


def test_unknown_parameters_of_a_configuration() -> None:
    """Other parts of the package can ask for unknown names of a parsed recipe."""
    config = _configuration(
        "models:\n"
        "  - {model: org/math, parameters: {densty: 0.2, weight: 1}}\n"
        "  - {model: org/code, parameters: {density: 0.2}}\n"
        "merge_method: pcb\n"
        "base_model: org/base\n"
        "parameters: {lamda: 1.2, t: 0.5, rescale: true}\n"
    )
    assert unknown_parameters(config) == [
        (
            "`pcb` has no parameter `lamda`; did you mean `lambda`? "
            "(in the parameters of the recipe)"
        ),
        (
            "`pcb` has no parameter `t`; remove it (`nearswap` and `slerp` have one) "
            "(in the parameters of the recipe)"
        ),
        (
            "`pcb` has no parameter `densty`; did you mean `density`? "
            "(in the parameters of org/math)"
        ),
    ]


def test_unknown_parameters_of_a_planned_configuration() -> None:
    """They are found in slices and modules, where the planner moves them."""
    config = _configuration(
        "modules:\n"
        "  default:\n"
        "    parameters: {clmap: 0}\n"
        "    slices:\n"
        "      - parameters: {scpoe: model}\n"
        "        sources:\n"
        "          - model: org/math\n"
        "            layer_range: [0, 2]\n"
        "            parameters: {densty: 0.1}\n"
        "merge_method: pcb\n"
        "base_model: org/base\n"
    )
    where = [
        line.rpartition(" (in the parameters of ")[2]
        for line in (unknown_parameters(config))
    ]
    assert where == ["a module)", "a slice)", "org/math)"]


def test_a_method_without_parameters() -> None:
    """Nothing is suggested that the method would not take either."""
    unknown = unknown_parameter("weigt", merge_methods.get("arcee_fusion").spec)
    assert unknown is not None
    assert unknown.fix == "`arcee_fusion` takes no parameters"


@pytest.mark.slow
def test_a_merge_imports_no_tool(tmp_path: Path) -> None:
    """A whole merge with `pcb` needs nothing of the linter and the other tools."""
    base, tuned = save_family(tmp_path / "models", 2)
    recipe = recipe_of(base, tuned, parameters={"scope": "model"})
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    code = (
        "import sys, mergekit_pcb\n"
        "from mergekit.scripts.run_yaml import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "ours = [m.split('.') for m in sys.modules if m.startswith('mergekit_pcb.')]\n"
        "print(*sorted({parts[1] for parts in ours}))\n"
    )
    merged = subprocess.run(
        [sys.executable, "-c", code, file, tmp_path / "merged", *QUIET],
        capture_output=True,
        text=True,
        check=False,
    )
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert merged.stdout.split() == [
        "atomic_files",
        "autoload",
        "errors",
        "kernel",
        "plugin",
        "printable",
        "suggestions",
    ]
