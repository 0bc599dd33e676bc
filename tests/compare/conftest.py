"""A recipe that several files merge by."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="package")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for three tiny Llamas of one base, with a tokenizer."""
    folder = tmp_path_factory.mktemp("family")
    base, tuned = tiny.save_family(folder, 3)
    for model in (base, *tuned):
        tiny.save_tokenizer(model.path)
    return tiny.write_recipe(tiny.recipe_of(base, tuned), folder / "recipe.yml")
