"""An inspection on the terminal."""

from __future__ import annotations

import dataclasses

import pytest

from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.terminal import show


def test_terminal(found: Inspection, capsys: pytest.CaptureFixture[str]) -> None:
    """Within 80 columns, without colour or trailing blanks when it goes to a file."""
    names = tuple(f"/models/a-name-{'that-goes-on-' * i}and-on" for i in range(3))
    show(dataclasses.replace(found, models=names), layers=True, legend=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "\x1b" in line or line != line.rstrip()]
    assert "Density 0.2, scope tensor (the recipe)" in lines
    assert [line for line in lines if line.startswith("merged / mean ")]
    assert [line for line in lines if line.startswith("outside ")]
