"""What a finding says to write instead is itself fine."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mergekit.merge_methods import get

from mergekit_pcb.check.linter import check_recipe
from mergekit_pcb.recipes.findings import Finding

WRONG = Path(__file__).parents[1] / "data" / "recipes" / "wrong"
# What is left to whoever writes the recipe; and text that is no YAML yet.
_OPEN = re.compile(r":`|`- |: …|first, end|owner/|`models|^remove one|above it|line up")
# Advice that could not be given before.
_LATER = ("write `base_model: ", "run mergekit with `--lora-merge-cache DIR`")
_QUOTED = re.compile(r"`([^`]*)`")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _findings() -> list[Any]:
    found = []
    for file in sorted(WRONG.iterdir()):
        for finding in check_recipe(file.read_text(), file.name):
            if finding.fix.startswith(_AUTOMATIC) and not _OPEN.search(finding.fix):
                place = f"{file.stem}:{finding.line}:{finding.column}"
                found.append(pytest.param(file, finding, id=place))
    return found


# Fixes that say all of what is to be written.
_AUTOMATIC = (
    "write `",
    "write one entry for each ",
    "did you mean ",
    "choose `",
    "move it under `parameters:`",
    "move it to the top level",
    "move it to the top-level",
    "remove it",
    "remove `base_model`",
    "remove `weight` from all models",
)


def _steps(path: str) -> list[str | int]:
    """The way that a finding's path describes."""
    found = re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)
    return [int(index) if index else key for index, key in found]


def _mended(documents: list[Any], finding: Finding) -> list[list[Any]]:
    """The documents with the fix made, once for every word that it offers."""
    way = _steps(finding.path)
    number = 0
    if way[:1] == ["documents"]:
        number, way = int(way[1]), way[2:]
    words = _QUOTED.findall(finding.fix)
    # The messages of a parameter's own type have no quotes.
    words = words or re.findall(r"did you mean (\S+)\?", finding.fix)
    offers = words if finding.fix.startswith(("did you", "choose")) else words[:1]
    results = []
    for word in offers or [""]:
        changed = copy.deepcopy(documents)
        if not way:
            del changed[number]
        elif "where it is used" in finding.fix:
            name = documents[number]["name"]
            changed = [_renamed(document, name, word) for document in changed]
        else:
            holder = changed[number]
            for step in way[:-1]:
                holder = holder[step]
            _change(changed[number], holder, way[-1], finding, word)
        results.append(changed)
    return results


def _renamed(value: Any, name: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(inner, name, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, name, new) for inner in value]
    return new if value == name else value


def _change(root: Any, holder: Any, key: Any, finding: Finding, word: str) -> None:
    fix = finding.fix
    is_key = re.search(
        r"the key `|has no parameter `|reads? `|for all mod", finding.message
    )
    if fix.startswith("remove `base_model`"):
        del root["base_model"]
    elif "from all models" in fix:
        for entry in root["models"]:
            entry.get("parameters", {}).pop(key, None)
    elif fix.startswith("remove it"):
        del holder[key]
    elif fix.startswith("move it under"):
        holder.setdefault("parameters", {})[key] = holder.pop(key)
    elif fix.startswith("move it to") or "at the top level" in fix:
        under = root if "of the recipe" in fix else root.setdefault("parameters", {})
        under[key] = holder.pop(key)
    elif "one entry for each" in fix:
        # The finding is at the filter; the list holds its entry.
        entries = _list_of(root, holder)
        filters = _QUOTED.findall(fix)
        new = [{**holder, "filter": text} for text in filters]
        index = entries.index(holder)
        entries[index : index + 1] = new
    elif re.fullmatch(r"[a-z_]+: .*", word, re.DOTALL):
        written = yaml.safe_load(word)
        if set(written) <= {p.name for p in get("pcb").spec.parameters}:
            root = root.setdefault("parameters", {})
        if " there" in fix:
            root = holder[key]
        elif "takes `key" in finding.message:
            del holder[key]
        (holder if is_key and "model" in written else root).update(written)
        if is_key:
            for stray in ("revision", "lora"):
                holder.pop(stray, None)
    elif is_key:
        holder[word] = holder.pop(key)
    else:
        holder[key] = yaml.safe_load(word) if word[:1] in "[{" else word


def _list_of(value: Any, item: Any) -> list[Any]:
    """The list inside a value that holds an item."""
    children = value if isinstance(value, list) else []
    if any(child is item for child in children):
        return children
    for child in value.values() if isinstance(value, dict) else children:
        if isinstance(child, (dict, list)) and (found := _list_of(child, item)):
            return found
    return []


@pytest.mark.parametrize(("file", "finding"), _findings())
def test_a_fix_is_itself_fine(file: Path, finding: Finding) -> None:
    """With the fix made, nothing is wrong at that place, and no error is new."""
    text = file.read_text()
    before = {(f.rule, f.path) for f in check_recipe(text, file.name)}
    for mended in _mended(list(yaml.safe_load_all(text)), finding):
        written = yaml.safe_dump_all(mended, sort_keys=False)
        after = check_recipe(written, file.name)
        new = [f for f in after if (f.rule, f.path) not in before]
        assert [str(f) for f in new if not f.fix.startswith(_LATER)] == []
        same = [f for f in after if (f.rule, f.path) == (finding.rule, finding.path)]
        assert [str(f) for f in same if f.message == finding.message] == []


def test_advice_on_a_card_of_ties_leads_to_the_defaults() -> None:
    """Who writes `pcb` into a recipe of TIES and does what check says tunes nothing."""
    text = (WRONG / "ties_weights_for_pcb.yml").read_text()
    for _ in range(5):
        found = check_recipe(text, "recipe.yml")
        if not found:
            break
        (mended,) = _mended(list(yaml.safe_load_all(text)), found[0])
        text = yaml.safe_dump_all(mended, sort_keys=False)
    recipe = yaml.safe_load(text)
    defaults = {p.name: p.default for p in get("pcb").spec.parameters}
    for place in (recipe, *recipe["models"]):
        for name, value in (place.get("parameters") or {}).items():
            assert float(value) == defaults[name]
    assert check_recipe(text, "recipe.yml") == []
