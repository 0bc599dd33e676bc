"""Who may import whom, as `[tool.importlinter]` in pyproject.toml says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports_command as lint; lint()"
OPTIONS = ["--config", "pyproject.toml", "--no-cache"]


def test_imports_follow_the_layers() -> None:
    """No module imports what its layer or tool must not know; the report says which."""
    # In a process of its own, as the linter's `dictConfig` disables the loggers that
    # exist. `PYTHONPATH`: the names that are to be checked are this source tree's.
    result = subprocess.run(
        [sys.executable, "-c", LINT, *OPTIONS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    report = result.stdout + result.stderr
    assert result.returncode == 0, report
    assert "Each layer imports only what is below it KEPT" in report
