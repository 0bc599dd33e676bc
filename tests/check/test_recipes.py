"""Recipes under data/recipes: what check says of them, and what mergekit does.

A wrong recipe ends with the lines check must print, without the file's name, and
with what mergekit makes of it: it `stops` before it reads a tensor, `runs` as if
nothing were wrong, or meets the problem `later`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge_methods import get
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from mergekit.scripts.merge_raw_pytorch import (
    RawPyTorchMergeConfig,
    construct_param_dicts,
)
from mergekit.scripts.multimerge import load_config, make_tasks
from transformers import LlamaConfig

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.check.rules import RULES

RECIPES = Path(__file__).parents[1] / "data" / "recipes"
EXAMPLES = Path(__file__).parents[2] / "example_configs"

Mergekit = Callable[[Path], None]


def _all(folder: Path) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted(folder.glob("*.y*ml"))]


@pytest.fixture
def mergekit(monkeypatch: pytest.MonkeyPatch) -> Mergekit:
    """Mergekit up to the finished plan, with small Llamas for all models."""
    llama = LlamaConfig(num_hidden_layers=4, architectures=["LlamaForCausalLM"])
    (architecture,) = NAME_TO_ARCH["LlamaForCausalLM"]
    monkeypatch.setattr(
        ModelReference, "config", lambda self, trust_remote_code=False: llama
    )
    monkeypatch.setattr(
        LoaderCache,
        "get",
        lambda self, model: SimpleNamespace(
            index=SimpleNamespace(tensor_paths=_Everything())
        ),
    )
    options = MergeOptions(lora_merge_cache="unused")

    def plan(config: MergeConfiguration) -> None:
        MergePlanner(config, architecture, options, llama)._plan()

    def run(path: Path) -> None:
        text = path.read_text()
        if path.stem.startswith("multi"):
            configs, needs = load_config(text, "intermediate")
            make_tasks(configs, needs, options, "intermediate", "out", True)
            for config in configs.values():
                plan(config)
        elif path.stem.startswith("pytorch"):
            flat = RawPyTorchMergeConfig.model_validate(yaml.safe_load(text))
            construct_param_dicts(flat, get(flat.merge_method), "layer.weight")
        else:
            plan(MergeConfiguration.model_validate(yaml.safe_load(text)))

    return run


class _Everything:
    def __contains__(self, name: object) -> bool:
        return True


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No model name of a recipe is a file or folder here.
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", _all(RECIPES / "wrong"))
def test_wrong_recipe_prints_these_lines(path: Path) -> None:
    """A wrong recipe gets exactly the lines written at its end."""
    text = path.read_text()
    expected = re.findall(r"^# check: (.*)$", text, re.MULTILINE)
    found = check_recipe(text, path.name)
    assert [str(finding) for finding in found] == [
        f"{path.name}:{line}" for line in expected
    ]
    assert {finding.rule for finding in found} <= set(RULES)
    assert expected, "a wrong recipe without a line to print"


@pytest.mark.parametrize("path", _all(RECIPES / "wrong"))
def test_wrong_recipe_does_in_mergekit_what_it_says(
    path: Path, mergekit: Mergekit
) -> None:
    """What check calls an error is one: mergekit stops, or goes on in silence."""
    verdict = re.search(r"^# mergekit (\w+)$", path.read_text(), re.MULTILINE)
    assert verdict is not None
    if verdict[1] == "stops":
        with pytest.raises(Exception):  # noqa: B017, PT011 - mergekit raises anything
            mergekit(path)
    else:
        assert verdict[1] in ("runs", "later")
        mergekit(path)


@pytest.mark.parametrize("path", _all(RECIPES / "right"))
def test_right_recipe_raises_no_alarm(path: Path) -> None:
    """Recipes as mergekit documents them, for every method, have nothing wrong."""
    assert check_recipe(path.read_text(), path.name) == []


@pytest.mark.parametrize("path", _all(RECIPES / "right"))
def test_right_recipe_is_planned_by_mergekit(path: Path, mergekit: Mergekit) -> None:
    """The recipes that raise no alarm are recipes that mergekit accepts."""
    mergekit(path)


@pytest.mark.parametrize("path", _all(EXAMPLES))
def test_example_raises_no_alarm(path: Path) -> None:
    """The recipes people copy from this project need at most an option to be named."""
    text = path.read_text()
    for name in re.findall(r"\S+\.safetensors", text):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    findings = check_recipe(text, path.name)
    needed = "run mergekit with `--lora-merge-cache DIR`"
    assert [str(found) for found in findings if found.fix != needed] == []
    assert not any(found.severity == "error" for found in findings)


@pytest.mark.parametrize("path", _all(RECIPES / "right"))
def test_a_missing_piece_is_noticed_when_mergekit_needs_it(
    path: Path, mergekit: Mergekit, tmp_path: Path
) -> None:
    """Of every value left out, check says an error if mergekit stops without it."""
    documents = list(yaml.safe_load_all(path.read_text()))
    broken = tmp_path / path.name
    for way in _ways(documents):
        rest = copy.deepcopy(documents)
        holder = rest
        for step in way[:-1]:
            holder = holder[step]
        del holder[way[-1]]
        broken.write_text(yaml.safe_dump_all(rest, sort_keys=False))
        found = check_recipe(broken.read_text(), path.name, _kind(path))
        if any(finding.severity == "error" for finding in found):
            continue
        try:
            mergekit(broken)
        except Exception as error:
            pytest.fail(f"without {way}: check is content, mergekit says {error}")


def _ways(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a nested one."""
    if isinstance(value, (dict, list)):
        steps = value if isinstance(value, dict) else range(len(value))
        for step in steps:
            yield (*way, step)
            yield from _ways(value[step], (*way, step))


def _kind(path: Path) -> str:
    return "multi" if path.stem.startswith("multi") else "yaml"


def test_every_rule_has_a_wrong_recipe() -> None:
    """Only what no recipe alone can show is tested elsewhere."""
    found = {
        finding.rule
        for path in (RECIPES / "wrong").iterdir()
        for finding in check_recipe(path.read_text(), path.name)
    }
    assert set(RULES) - found == {
        "not-text",
        "unreadable",
        "different-models",
        "unknown-module",
        "damaged-files",
        "quantised",
        "base-lacks-tensor",
        "dropped-tensors",
    }


def test_every_method_has_a_right_recipe() -> None:
    """Only the two siblings of documented methods go without a recipe of their own."""
    from mergekit.merge_methods import registered_methods

    used = set()
    for path in (RECIPES / "right").glob("*.yml"):
        used |= {d["merge_method"] for d in yaml.safe_load_all(path.read_text())}
    assert {m.spec.name for m in registered_methods()} - used <= {"ram"}


FILTERS_FOR_ALL = """
merge_method: linear
base_model: org/math
models:
  - model: org/math
    parameters:
      weight:
        - {filter: self_attn, value: 0.5}
        - {filter: mlp, value: 0.5}
        - {filter: norm, value: 0.1}
        - {filter: embed_tokens, value: 0.2}
        - {filter: lm_head, value: 0.1}
  - model: org/code
    parameters:
      weight: [{filter: model, value: 0.5}, {filter: lm_head, value: 1.0}]
"""
NAME_IN_A_FOLDER = """
name: first/soup
merge_method: karcher
base_model: org/math
models:
  - model: org/math
  - model: org/code
---
merge_method: pcb
base_model: org/base
models:
  - model: first/soup
  - model: org/chat
tokenizer:
  source: base
  tokens:
    "<|im_end|>": {source: first/soup}
"""


@pytest.mark.parametrize("text", [FILTERS_FOR_ALL, NAME_IN_A_FOLDER])
def test_unusual_recipes_that_mergekit_merges(text: str) -> None:
    """Filters that match all tensors of a Llama; a merge in a folder of its own."""
    assert check_recipe(text, "r.yml") == []


def test_filters_that_no_model_is_covered_by() -> None:
    """One tensor without a value is enough for mergekit to stop."""
    text = FILTERS_FOR_ALL.replace("filter: norm", "filter: nrm")
    findings = check_recipe(text, "r.yml")
    assert any("match no filter of `weight`" in f.message for f in findings)
