"""The JSON document and the CSV table of an inspection."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from mergekit_pcb.inspect.export import as_dict, tensors_csv
from mergekit_pcb.inspect.inspection import Inspection
from tests.inspect.helpers import Family, inspect
from tests.tiny import recipe_of, save_llama

FIGURES = {
    *("weights", "base_norm", "norms", "mean_norm", "cosines", "contested"),
    *("sign_conflicts", "settings"),
}


OUTCOME = {
    *("kept_by_none", "kept_by_one", "kept_by_several", "kept", "wins", "tied"),
    *("merged_norm", "merged_over_mean"),
}


def test_json(found: Inspection) -> None:
    """The keys that scripts rely on; shares add up, and nothing is NaN."""
    document = as_dict(found)
    assert set(document) == {
        *("format", "mergekit_pcb", "recipe", "merge_method", "base_model", "models"),
        *("settings", "skipped", "whole", "kinds", "layers", "tensors"),
    }
    assert document["format"] == 1
    assert document["settings"][0] == {
        "name": "density 0.2, scope tensor",
        "origin": "recipe",
        "scope": ["tensor"],
        "density": [0.2, 0.2],
        "lambda": [1.0, 1.0],
    }
    assert document["settings"][1]["origin"] == "command line"
    assert set(document["whole"]) == FIGURES
    assert set(document["tensors"]["lm_head.weight"]) == {*FIGURES, "kind", "layer"}
    for outcome in document["whole"]["settings"]:
        assert set(outcome) == OUTCOME
        assert sum(outcome[f"kept_by_{k}"] for k in ("none", "one", "several")) == (
            pytest.approx(1)
        )
        assert sum(outcome["wins"]) + outcome["tied"] == pytest.approx(1)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_csv(found: Inspection) -> None:
    """One line a tensor and setting, with the figures of the JSON document."""
    rows = list(csv.DictReader(io.StringIO(tensors_csv(found))))
    assert len(rows) == len(found.tensors) * 2
    tensors = as_dict(found)["tensors"]
    row, tensor = rows[1], tensors[rows[1]["tensor"]]
    assert row["setting"] == "density 0.2, scope model"
    assert row["kind"] == tensor["kind"] == "embedding"
    assert float(row["norm tuned1"]) == tensor["norms"][1]
    assert float(row["cosine tuned0, tuned2"]) == tensor["cosines"][0][2]
    assert float(row["kept tuned1"]) == tensor["settings"][1]["kept"][1]
    assert float(row["wins tuned2"]) == tensor["settings"][1]["wins"][2]


def test_what_nobody_wins_is_empty(family: Family, tmp_path: Path) -> None:
    """Columns are there for what has no value, and their cells are empty."""
    base, _ = family
    copy = save_llama(tmp_path / "copy", base.tensors)
    inspection = inspect(recipe_of(base, [copy]), tmp_path)
    row = next(csv.DictReader(io.StringIO(tensors_csv(inspection))))
    assert row["wins copy"] == row["merged_over_mean"] == ""
    assert row["kept copy"] == "0.0"
    assert as_dict(inspection)["whole"]["settings"][0]["wins"] is None
