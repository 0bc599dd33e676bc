"""The tables and warnings of an inspection."""

from __future__ import annotations

from pathlib import Path

from mergekit_pcb.inspect.tables import warnings
from tests.inspect.helpers import Family, inspect
from tests.tiny import recipe_of, save_llama


def test_warnings(family: Family, tmp_path: Path) -> None:
    """Copies of a model and of the base, and a merge that vanishes, are pointed out."""
    base, tuned = family
    save_llama(tmp_path / "copy", tuned[0].tensors)
    save_llama(tmp_path / "untouched", base.tensors)
    models = [tuned[0], tmp_path / "copy", tmp_path / "untouched"]
    inspection = inspect(recipe_of(base, models, parameters={"lambda": 1e-6}), tmp_path)
    first, second, third = warnings(inspection)
    assert first.startswith("untouched is the base model")
    assert second == "tuned0 and copy are the same model, or nearly."
    assert "the merge is the base model: it adds" in third
    assert not list(warnings(inspect(recipe_of(base, tuned), tmp_path)))
