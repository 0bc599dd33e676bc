"""An inspection as one page that needs no other file, no script and no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from mergekit_pcb import __version__
from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.export import as_json, tensors_csv
from mergekit_pcb.inspect.figures import pictures
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.quantities import DEFINITIONS
from mergekit_pcb.output.figures import Picture
from mergekit_pcb.output.html import figure, page
from mergekit_pcb.output.table import html


def write_report(inspection: Inspection, folder: Path) -> None:
    """Write the page, its pictures, JSON and CSV into a new folder."""
    folder.mkdir()
    (folder / "inspect.json").write_text(as_json(inspection), encoding="utf-8")
    (folder / "tensors.csv").write_text(tensors_csv(inspection), encoding="utf-8")
    drawn = pictures(inspection)
    for picture in drawn:
        (folder / f"{picture.name}.png").write_bytes(picture.png())
    page = report_page(inspection, drawn)
    (folder / "index.html").write_text(page, encoding="utf-8")


def report_page(inspection: Inspection, drawn: Sequence[Picture]) -> str:
    """The HTML page, with these pictures in it."""
    return page(f"Inside {inspection.recipe}", _body(inspection, drawn))


def _body(inspection: Inspection, drawn: Sequence[Picture]) -> Iterator[str]:
    yield f"<p>{escape(tables.summary(inspection))}</p>"
    for warning in tables.warnings(inspection):
        yield f'<p class="alarm">{escape(warning)}</p>'
    yield html(tables.task_vectors(inspection))
    if len(inspection.models) > 1:
        yield html(tables.cosines(inspection))
    yield from (figure(picture) for picture in drawn if picture.setting is None)
    for k in range(len(inspection.settings)):
        table = tables.competition(inspection, k)
        yield f"<h2>{escape(table.title)}</h2>"
        yield html(table._replace(title=""))
        yield from (figure(picture) for picture in drawn if picture.setting == k)
        layers = tables.by_layer(inspection, k)
        yield f"<details><summary>{escape(layers.title)}</summary>"
        yield html(layers._replace(title="")) + "</details>"
    yield "<h2>What the words mean</h2>\n<dl>"
    for word, meaning in DEFINITIONS.items():
        yield f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>"
    yield "</dl>\n<footer>"
    yield f"<p>base: {escape(inspection.base)}</p>"
    for i, model in enumerate(inspection.models):
        yield f"<p>{i + 1}: {escape(model)}</p>"
    yield f"<p>mergekit-pcb {__version__}</p>\n</footer>"
