"""A family of tiny models and one inspection, shared by the tests of `inspect`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mergekit_pcb.inspect.inspection import Inspection
from tests.inspect.helpers import Family, inspect
from tests.tiny import recipe_of, save_family


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small take longer to share among threads than to work on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return save_family(tmp_path_factory.mktemp("family"), layers=2)


@pytest.fixture(scope="session")
def found(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """An inspection of two settings: the recipe's, and another scope."""
    recipe = recipe_of(*family, parameters={"density": 0.2})
    return inspect(recipe, tmp_path_factory.mktemp("recipe"), scopes=["model"])
