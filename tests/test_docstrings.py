"""What the examples in docstrings show is what happens."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import mergekit_pcb
from mergekit_pcb.compare.scoreboard import Row, Tried

PACKAGE = Path(mergekit_pcb.__file__).parent
WITH_EXAMPLES = [
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module: str) -> None:
    """Each example runs and prints what its docstring says."""
    found = doctest.testmod(
        importlib.import_module(module),
        extraglobs={"Row": Row, "Tried": Tried},
        optionflags=doctest.ELLIPSIS,
    )
    assert found.attempted > 0
    assert found.failed == 0
