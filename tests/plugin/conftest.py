"""Fixtures of the tests of statistics files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import Model, save_family


@pytest.fixture
def family(tmp_path: Path) -> tuple[Model, list[Model]]:
    """A base and three fine-tunes."""
    return save_family(tmp_path / "models")


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes over the weights for statistics, by name."""
    from mergekit_pcb.plugin.graph_domain import GraphDomain

    made: list[str] = []
    original = GraphDomain.sweep

    def sweep(self, scoring, search):
        made.append("magnitudes" if scoring is None else "scores")
        return original(self, scoring, search)

    monkeypatch.setattr(GraphDomain, "sweep", sweep)
    return made
