"""Texts of recipes that are changed in a few places."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from mergekit_pcb.recipes.layout import in_yaml, with_values

RECIPE = """\
# mine
models:
  - model: org/math  # first
    # how much
    parameters:
      density: 0.5  # half
      # of the sum
      weight: 0.3
  - parameters: {density: 0.4, weight: [1, 2], gamma: 3}
    model: org/code

merge_method: ties  # as ever
base_model: org/base
parameters:
  normalize: true
# the end
dtype: bfloat16
"""


def changed(text: str, change: Any, comment: str = "") -> str | None:
    values = yaml.safe_load(text)
    change(values)
    return with_values(text, [values], [comment])


def test_nothing_changes_without_changes() -> None:
    """The same values give the same text."""
    assert changed(RECIPE, lambda values: None) == RECIPE


def test_what_is_removed_takes_its_line() -> None:
    """Other comments and blank lines stay, keys behind a dash and in braces work."""

    def change(values: Any) -> None:
        del values["models"][0]["parameters"]["density"]
        second = values["models"][1]["parameters"]
        del second["density"], second["gamma"]
        del values["parameters"]
        values["merge_method"] = "pcb"

    assert changed(RECIPE, change, "why\n\nso") == (
        RECIPE.replace("      density: 0.5  # half\n", "")
        .replace("{density: 0.4, weight: [1, 2], gamma: 3}", "{weight: [1, 2]}")
        .replace("parameters:\n  normalize: true\n", "")
        .replace("merge_method: ties", "# why\n#\n# so\nmerge_method: pcb")
    )


def test_a_key_behind_the_dash_is_removed() -> None:
    """The next key takes its place."""

    def change(values: Any) -> None:
        del values["models"][1]["parameters"]

    text = changed(RECIPE, change)
    assert text is not None
    assert "  - model: org/code\n" in text


@pytest.mark.parametrize(
    ("kept", "written"),
    [
        ("abc", "{a: 1, b: 2, c: 3}"),
        ("bc", "{b: 2, c: 3}"),
        ("ac", "{a: 1, c: 3}"),
        ("ab", "{a: 1, b: 2}"),
        ("a", "{a: 1}"),
        ("b", "{b: 2}"),
        ("c", "{c: 3}"),
        ("", "{}"),
    ],
)
def test_braces(kept: str, written: str) -> None:
    """Whichever entries go, the commas are right."""
    text = "merge_method: ties\nother: {a: 1, b: 2, c: 3}\n"

    def change(values: Any) -> None:
        for name in set("abc") - set(kept):
            del values["other"][name]

    assert changed(text, change) == text.replace("{a: 1, b: 2, c: 3}", written)


def test_new_keys_follow_the_method() -> None:
    """A value that was not there gets a line, even behind a last line without end."""
    text = "models: []\nmerge_method: linear"
    assert changed(text, lambda values: values.update(base_model="a b")) == (
        "models: []\nmerge_method: linear\nbase_model: a b\n"
    )


def test_line_ends_of_windows_stay() -> None:
    """Text with CR LF has them everywhere afterwards."""
    text = "merge_method: ties\r\nbase_model: org/base\r\n"
    got = changed(text, lambda values: values.update(merge_method="pcb"), "why")
    assert got == "# why\r\nmerge_method: pcb\r\nbase_model: org/base\r\n"


def test_aliases_stay() -> None:
    """What an anchor holds is changed once, for every alias of it."""
    text = (
        "models:\n"
        "  - {model: org/math, parameters: &p {weight: 0.3, density: 0.5}}\n"
        "  - {model: org/code, parameters: *p}\n"
        "merge_method: ties\n"
    )

    def change(values: Any) -> None:
        # YAML's aliases are one object.
        del values["models"][0]["parameters"]["density"]

    assert changed(text, change) == text.replace(", density: 0.5", "")


def test_an_alias_without_its_anchor_is_noticed() -> None:
    """Where the text would not give the values, there is none."""
    text = "one: &p {a: 1}\nmerge_method: ties\nother: *p\n"
    assert changed(text, lambda values: values.pop("one")) is None


def test_several_documents() -> None:
    """Each has its own values and comment."""
    text = "# one\nmerge_method: ties\n---\n# two\nname: x\nmerge_method: linear\n"
    values = list(yaml.safe_load_all(text))
    second = copy.deepcopy(values[1]) | {"merge_method": "pcb"}
    assert with_values(text, [values[0], second], ["", "why"]) == text.replace(
        "merge_method: linear", "# why\nmerge_method: pcb"
    )


@pytest.mark.parametrize("comment", ["", "why"])
def test_a_recipe_in_braces(comment: str) -> None:
    """The comment stands above all of it."""
    text = "{merge_method: ties, base_model: org/base}\n"
    got = changed(text, lambda values: values.update(merge_method="pcb"), comment)
    assert got == "# why\n" * bool(comment) + text.replace("ties", "pcb")


def test_new_keys_in_braces() -> None:
    """They follow the method there, too."""
    text = "{a: 1, merge_method: linear, b: 2}"
    assert changed(text, lambda values: values.update(base_model="x", c=[1])) == (
        "{a: 1, merge_method: linear, base_model: x, c: [1], b: 2}"
    )


def test_in_yaml() -> None:
    """The values in a layout of our own, with their comments."""
    text = in_yaml([{"merge_method": "pcb"}, {"a": [1]}], ["why", ""])
    assert text == "# why\nmerge_method: pcb\n---\na:\n- 1\n"
