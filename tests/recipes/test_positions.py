"""Reading YAML with places: the same values as PyYAML, and where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mergekit_pcb.recipes.positions import read

RECIPES = Path(__file__).parents[1] / "data" / "recipes"


@pytest.mark.parametrize(
    "path", sorted((RECIPES / "right").glob("*.yml")), ids=lambda path: path.stem
)
def test_values_are_those_of_pyyaml(path: Path) -> None:
    """A recipe's values are what `yaml.safe_load` gives, aliases and all."""
    text = path.read_text()
    places, findings = read(text, "r.yml")
    assert [place.value for place in places] == list(yaml.safe_load_all(text))
    assert findings == []


def test_places_and_paths() -> None:
    """Every key and value knows its line, its column and the way to it."""
    (root,), _ = read("models:\n  - model: a\n    weight: 0.5\n", "r.yml")
    (entry,) = root.fields["models"].items
    key, value = entry.keys["weight"], entry.fields["weight"]
    assert (key.line, key.column, key.value) == (3, 5, "weight")
    assert (value.line, value.column, value.value) == (3, 13, 0.5)
    assert value.path == "models[0].weight"


def test_later_documents_have_paths_of_their_own() -> None:
    """Paths of a second document say so."""
    _, second = read("a: 1\n---\na: 2\n", "r.yml")[0]
    assert second.fields["a"].path == "documents[1].a"


def test_merge_keys_do_not_replace_written_ones() -> None:
    """What `<<` brings in yields to the keys of the mapping, as in PyYAML."""
    text = (
        "x: &x {a: 1, b: 1}\n"
        "y: &y {b: 2, c: 2}\n"
        "z: &z {<<: [*x, *y], c: 3}\n"
        "again: {<<: *z, a: 2}\n"
        "twice: [*z, {<<: *x, <<: *y}]\n"
    )
    (root,), findings = read(text, "r.yml")
    assert root.value == yaml.safe_load(text)
    assert findings == []


def test_a_value_that_is_referred_to_is_anchored() -> None:
    """A place knows that an alias elsewhere needs it."""
    (root,), _ = read("a: &a 1\nb: *a\nc: 2\n", "r.yml")
    assert root.fields["a"].anchored
    assert not root.fields["c"].anchored


COLON = "a `:` is not allowed here"
DASH = "this `-` does not line up with the list above it"


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a:\n\t- 1\n", 2, 1, "a tab cannot indent YAML"),
        ("a: b: c\n", 1, 5, COLON),
        ("a:\n  b: 1\n   c: 2\n", 3, 5, COLON),
        ("a\nb: 1\n", 2, 2, COLON),
        ("b: 1\na\n", 3, 1, "a key without `: ` and a value"),
        ("a:\n  - b\n - c\n", 3, 2, DASH),
        ("a:\n  - b\n  c: 1\n", 3, 3, "this key does not line up with the keys above"),
        ("a: {{ b }}\n", 1, 5, "a list or mapping cannot be a key"),
        ("a: 1\na: 2\n", 2, 1, "`a` is written twice, first on line 1"),
        ("a: *b\n", 1, 4, "not valid YAML: found undefined alias 'b'"),
        ("a: &a [*a]\n", 1, 4, "not valid YAML: the alias at `a[0]` contains itself"),
        ("a: !odd 1\n", 1, 4, "not valid YAML: could not determine a constructor"),
        ("x: 1\na: \0\n", 2, 4, "not valid YAML: the character '\\x00' is not allowed"),
        ("<<: 1\n", 1, 1, "not valid YAML: `<<` takes a mapping or a list of them"),
        ("a: 2024-13-45\n", 1, 1, "not valid YAML: month must be in 1..12"),
    ],
)
def test_what_is_wrong_with_the_yaml(
    text: str, line: int, column: int, message: str
) -> None:
    """YAML that PyYAML refuses, or reads otherwise than meant, is one plain line."""
    _, (finding,) = read(text, "r.yml")
    assert (finding.line, finding.column) == (line, column)
    assert finding.message.startswith(message)
    assert finding.severity == "error"


@pytest.mark.parametrize("line", ["a{}: &a{} [{}]", "a{}: &a{} {{<<: [{}]}}"])
def test_aliases_of_aliases_are_bounded(line: str) -> None:
    """A kilobyte that stands for a thousand million values is refused at once."""
    text = "a0: &a0 {x: 1}\n"
    for i in range(1, 12):
        text += line.format(i, i, ",".join([f"*a{i - 1}"] * 9)) + "\n"
    _, findings = read(text, "r.yml")
    assert "which no recipe has" in findings[-1].message


def test_nesting_is_bounded() -> None:
    """Brackets without end are a finding, not a crash."""
    _, (finding,) = read("a: " + "[" * 100_000, "r.yml")
    assert "recursion" in finding.message
