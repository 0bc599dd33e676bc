"""Pictures of commands, and the committed ones."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from experiments import pictures


def test_a_picture_of_a_command(tmp_path: Path) -> None:
    """It shows what the command prints, in colour, as the committed one does."""
    result = CliRunner().invoke(pictures.main, ["check", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    svg = (tmp_path / "check.svg").read_text(encoding="utf-8")
    assert "`densty`" in svg
    assert len(set(re.findall("fill: (#[0-9a-f]{6})", svg))) > 2
    assert "url(http" not in svg
    committed = (pictures.PICTURES / "check.svg").read_text(encoding="utf-8")
    assert _shown(svg) == _shown(committed)


def _shown(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)
