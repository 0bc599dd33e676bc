"""Changes to a recipe reach every model once."""

from __future__ import annotations

import yaml

from mergekit_pcb.recipes import edits

ALIASED = """
merge_method: pcb
base_model: org/base
models:
  - model: org/base
    parameters: {weight: 3}
  - model: org/math
    parameters: &shared {weight: 0.5}
  - model: org/code
    parameters: *shared
"""


def test_weights_that_are_one_object_are_scaled_once() -> None:
    """YAML's aliases are one object in Python; the base keeps its weight."""
    recipe = edits.with_absolute_paths(yaml.safe_load(ALIASED))
    edits.scale_weights(recipe, 1.0)
    weights = [entry["parameters"]["weight"] for entry in recipe["models"]]
    assert weights == [3, 1.0, 1.0]


def test_weights_by_layer_are_not_scaled() -> None:
    """Nor is any other weight then."""
    recipe = yaml.safe_load(ALIASED.replace("0.5", "[0.5, 1]"))
    before = yaml.safe_dump(recipe)
    edits.scale_weights(recipe, 1.0)
    assert yaml.safe_dump(recipe) == before


def test_the_base_is_listed_in_each_slice_once() -> None:
    """With the layers of the first model there."""
    sources = [{"model": "org/math", "layer_range": [0, 4]}]
    with_base = [*sources, {"model": "org/base", "layer_range": [0, 4]}]
    recipe = {"slices": [{"sources": [*sources]}, {"sources": [*with_base]}]}
    edits.add_base_to_slices(recipe, "org/base")
    assert recipe["slices"] == [{"sources": with_base}, {"sources": with_base}]
