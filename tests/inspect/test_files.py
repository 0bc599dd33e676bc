"""The files of an inspection: JSON document, CSV table and HTML page."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from html import escape
from pathlib import Path

import pytest

from mergekit_pcb import __version__
from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.files import as_dict, report_page, tensors_csv
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.quantities import DEFINITIONS
from tests.inspect.helpers import Family, assert_self_contained, inspect
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
        *(
            "settings",
            "skipped",
            "stops",
            "dropped",
            "whole",
            "kinds",
            "layers",
            "tensors",
        ),
    }
    assert document["format"] == 1
    assert document["settings"][0] == {
        "name": "density 0.2, scope tensor",
        "origin": "recipe",
        "scope": ["tensor"],
        "density": [0.2, 0.2],
        "lambda": None,
        "lambda_auto": found.lambdas[0]._asdict(),
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


def test_page_needs_nothing_else(found: Inspection) -> None:
    """No script, no link, no address; names are text whatever they contain."""
    names = ("/models/<script>alert(1)</script>", "b&b", "c")
    html = report_page(dataclasses.replace(found, models=names), [])
    assert_self_contained(html)
    assert "&lt;script&gt;" in html
    assert "b&amp;b" in html


def test_page_holds_every_table(found: Inspection) -> None:
    """The tables of the terminal, those of layers to be opened, and the terms."""
    html = report_page(found, [])
    shown = [tables.task_vectors(found), tables.cosines(found)]
    shown += [tables.competition(found, k) for k in (0, 1)]
    shown += [tables.by_layer(found, k) for k in (0, 1)]
    assert html.count("<table>") == len(shown)
    assert html.count("<details><summary>The same by layer</summary>") == 2
    for table in shown:
        assert escape(table.title) in html
        for label, *cells in table.rows:
            assert escape(label.strip()) in html
            tags = ["td"] * len(table.headings)
            tags[table.words] = 'td class="words"'
            pairs = zip(tags[1:], cells, strict=False)
            row = "".join(f"<{tag}>{escape(cell)}</td>" for tag, cell in pairs)
            assert f"</th>{row}" in html
    indented = [row for table in shown for row in table.rows if row[0][:2] == "  "]
    assert html.count('class="member"') == len(indented)
    for term, meaning in DEFINITIONS.items():
        assert f"<dt>{term}</dt><dd>{escape(meaning)}</dd>" in html
    for i, model in enumerate(found.models):
        assert f"<p>{i + 1}: {model}</p>" in html
    assert f"<p>base: {found.base}</p>" in html
    assert f"<p>{escape(tables.summary(found))}</p>" in html
    assert f"<p>mergekit-pcb {__version__}</p>" in html
    for tag in ("dl", "details", "footer", "table"):
        assert html.count(f"<{tag}>") == html.count(f"</{tag}>") > 0


def test_warnings_stand_out(family: Family, tmp_path: Path) -> None:
    """Above the tables; and one model is compared with no other."""
    base, _ = family
    copy = save_llama(tmp_path / "copy", base.tensors)
    html = report_page(inspect(recipe_of(base, [copy]), tmp_path), [])
    assert '<p class="alarm">copy is the base model: its task vector is zero' in html
    assert "Cosine similarity" not in html
