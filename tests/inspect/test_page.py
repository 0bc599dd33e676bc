"""The HTML page of an inspection."""

from __future__ import annotations

import dataclasses

from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.page import report_page
from tests.inspect.helpers import assert_self_contained


def test_page_needs_nothing_else(found: Inspection) -> None:
    """No script, no link, no address; names are text whatever they contain."""
    names = ("/models/<script>alert(1)</script>", "b&b", "c")
    html = report_page(dataclasses.replace(found, models=names), [])
    assert_self_contained(html)
    assert "&lt;script&gt;" in html
    assert "b&amp;b" in html
