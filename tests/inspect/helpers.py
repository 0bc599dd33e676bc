"""Shared steps of the tests of `inspect`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from click.testing import Result
from mergekit.options import MergeOptions

from mergekit_pcb.cli import main
from mergekit_pcb.inspect.collect import inspect_recipe
from mergekit_pcb.inspect.inspection import Inspection
from tests.tiny import Model, invoke, write_recipe

QUIET = MergeOptions(quiet=True)
Family = tuple[Model, list[Model]]


def inspect(recipe: Any, tmp_path: Path, **more: Any) -> Inspection:
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    return inspect_recipe(str(file), QUIET, **more)


def call(recipe: Any, tmp_path: Path, *options: object) -> Result:
    file = write_recipe(recipe, tmp_path / "recipe.yml")
    return invoke(main, "inspect", file, "--quiet", *options)


def failure(result: Result) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback, not a line"
    (line,) = (t for t in result.stderr.splitlines() if t.startswith("Error: "))
    return line.removeprefix("Error: ")


def assert_self_contained(html: str) -> None:
    assert not re.search(r"<script|<link|<iframe|@import|url\(", html)
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', html)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "://" not in html
