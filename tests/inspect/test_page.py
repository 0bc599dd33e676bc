"""The HTML page of an inspection."""

from __future__ import annotations

import dataclasses
from html import escape
from pathlib import Path

from mergekit_pcb import __version__
from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.page import report_page
from mergekit_pcb.inspect.quantities import DEFINITIONS
from tests.inspect.helpers import Family, assert_self_contained, inspect
from tests.tiny import recipe_of, save_llama


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
