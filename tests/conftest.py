"""What every test shares: the header, and mergekit's global state put back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports huggingface_hub, which reads it then: a test that asked the
# hub would pass or fail with the network.
os.environ["HF_HUB_OFFLINE"] = "1"

# These machines are shared: how long an example takes says nothing about it.
settings.register_profile("shared", deadline=None, max_examples=50)
settings.load_profile("shared")

_SHOWN = ("mergekit-pcb", "mergekit", "torch", "transformers", "pydantic", "numpy")


def pytest_report_header() -> str:
    found = []
    for name in _SHOWN:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} missing")
    return ", ".join(found)


@pytest.fixture(autouse=True)
def _restored_registry() -> Iterator[None]:
    """Put mergekit's registries back as they were before the test."""
    registries = [
        getattr(sys.modules[module], name)
        for module, name in (
            ("mergekit.merge_methods.registry", "_METHODS"),
            ("mergekit.evo.genome", "METHOD_PARAM_MAPS"),
        )
        if module in sys.modules
    ]
    before = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture
def blocks_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many task values are worked on at a time."""
    from mergekit_pcb.kernel import numba_backend, torch_backend

    def of(values: int) -> None:
        monkeypatch.setattr(torch_backend, "_CPU_BLOCK", values)
        monkeypatch.setattr(numba_backend, "BLOCK", values)

    return of


@pytest.fixture(autouse=True)
def _forgotten_statistics() -> None:
    """Take whole-model statistics anew in every test."""
    store = sys.modules.get("mergekit_pcb.plugin.statistics_file")
    if store is not None:
        store._cache.clear()


@pytest.fixture
def none_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass loads all tensors, as it does those that are not small."""
    from mergekit_pcb.plugin import small_tensors

    monkeypatch.setattr(small_tensors, "_MOST", 0)


@pytest.fixture
def module_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a module of a text that can be imported here; gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def make(text: str) -> str:
        # A name of its own: another test's module may still be imported.
        name = f"module_{abs(hash((tmp_path, text)))}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return make
