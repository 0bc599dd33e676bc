"""Who may import whom, as `[tool.importlinter]` in pyproject.toml says."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from importlinter.cli import lint_imports_command

ROOT = Path(__file__).parents[1]


def test_imports_follow_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module imports what its layer or tool must not know; the report says which."""
    # The names that are to be checked are those of this source tree.
    monkeypatch.syspath_prepend(ROOT)
    arguments = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    result = CliRunner().invoke(lint_imports_command, arguments)
    assert result.exit_code == 0, result.output
    assert "Each layer imports only what is below it KEPT" in result.output
