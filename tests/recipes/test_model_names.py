"""Short names of models."""

from __future__ import annotations

import pytest

from mergekit_pcb.recipes.model_names import short_names


def _snapshot(name: str, revision: str, below: str = "") -> str:
    return f"/hub/models--org--{name}/snapshots/{revision * 40}{below}"


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ([], []),
        (["org/a", "org/b"], ["a", "b"]),
        (["/x/a/final", "/x/b/final", "c"], ["a/final", "b/final", "c"]),
        (["/r/a/x", "/r/b/x", "/r/y/c"], ["a/x", "b/x", "c"]),
        ([_snapshot("a", "1"), _snapshot("b", "1")], ["a", "b"]),
        ([_snapshot("a", "1"), _snapshot("a", "2")], ["a@1111111", "a@2222222"]),
        ([_snapshot("a", "1", "/sub"), "org/b"], ["sub", "b"]),
        ([_snapshot("a", "1"), "other/a"], ["org/a", "other/a"]),
        (["a", "./a"], ["a", "./a"]),
        (["."], ["."]),
        (["/x/\x1b[31mred", "b\nc"], ["\\x1b[31mred", "b\\nc"]),
    ],
)
def test_short_names(models: list[str], names: list[str]) -> None:
    """Names are short, printable, and no two models share one."""
    assert short_names(models) == names
