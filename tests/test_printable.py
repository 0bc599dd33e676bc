"""Text of others, as it reaches a terminal."""

from __future__ import annotations

import pytest

from mergekit_pcb.errors import PCBError
from mergekit_pcb.printable import printable
from mergekit_pcb.recipes.findings import Finding


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("org/chat ünï 模型", "org/chat ünï 模型"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\x9bb\u202ec", r"a\x9bb\u202ec"),
        ("a\udcffb", r"a\udcffb"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """Letters stay; what would steer a terminal is written out."""
    assert printable(text) == shown


def test_errors_and_findings_are_printable() -> None:
    """Names in messages do not reach the terminal as they are."""
    name = "a\x1b[2Jb"
    assert PCBError(f"no `{name}`\nhere").format_message() == r"no `a\x1b[2Jb` here"
    assert "\x1b" not in str(Finding(name, 1, 1, "error", name))
