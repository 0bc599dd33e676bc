"""An inspection as one page that needs no other file, no script and no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from mergekit_pcb import __version__
from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.export import as_csv, as_json
from mergekit_pcb.inspect.figures import pictures
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.tables import Sheet
from mergekit_pcb.output.figures import Picture
from mergekit_pcb.output.html import figure, page

_DEFINITIONS = {
    "task vector": "A model's weights minus the base's.",
    "signs disagree": (
        "Of the weights that at least two models change, those that one model raises "
        "and another lowers."
    ),
    "keeps": (
        "The model is one of those that make the merged value there: its rescaled "
        "score s is above 0."
    ),
    "wins": (
        "Of the weights that anybody keeps, those where the model's s is larger than "
        "every other's, and so is its share of the merged value. Tied: nobody's is."
    ),
    "merged / mean": (
        "Norm of what the merge adds to the base, over the norm of the mean of the "
        "task vectors."
    ),
    "outside": "Tensors in no layer: embeddings, the head, the last norm.",
}


def write_report(inspection: Inspection, folder: Path) -> None:
    """Write the page, its pictures and the figures into a new folder."""
    folder.mkdir()
    (folder / "inspect.json").write_text(as_json(inspection), encoding="utf-8")
    (folder / "tensors.csv").write_text(as_csv(inspection), encoding="utf-8")
    drawn = pictures(inspection)
    for picture in drawn:
        (folder / f"{picture.name}.png").write_bytes(picture.png())
    html = report_page(inspection, drawn)
    (folder / "index.html").write_text(html, encoding="utf-8")


def report_page(inspection: Inspection, drawn: Sequence[Picture]) -> str:
    """The HTML page, with these pictures in it."""
    return page(f"Inside {inspection.recipe}", _body(inspection, drawn))


def _body(inspection: Inspection, drawn: Sequence[Picture]) -> Iterator[str]:
    yield f"<p>{escape(tables.heading(inspection))}</p>"
    for warning in tables.warnings(inspection):
        yield f'<p class="alarm">{escape(warning)}</p>'
    yield _table(tables.task_vectors(inspection))
    if len(inspection.models) > 1:
        yield _table(tables.cosines(inspection))
    yield from (figure(picture) for picture in drawn if picture.setting is None)
    for k in range(len(inspection.settings)):
        sheet = tables.outcome(inspection, k)
        yield f"<h2>{escape(sheet.title)}</h2>"
        yield _table(sheet._replace(title=""))
        yield from (figure(picture) for picture in drawn if picture.setting == k)
        layers = tables.by_layer(inspection, k)
        yield f"<details><summary>{escape(layers.title)}</summary>"
        yield _table(layers._replace(title="")) + "</details>"
    yield "<h2>What the words mean</h2>\n<dl>"
    for word, meaning in _DEFINITIONS.items():
        yield f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>"
    yield "</dl>\n<footer>"
    yield f"<p>base: {escape(inspection.base)}</p>"
    for i, model in enumerate(inspection.models):
        yield f"<p>{i + 1}: {escape(model)}</p>"
    yield f"<p>mergekit-pcb {__version__}</p>\n</footer>"


def _table(sheet: Sheet) -> str:
    caption = f"<caption>{escape(sheet.title)}</caption>" if sheet.title else ""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in sheet.headings)
    rows = []
    for line in sheet.lines:
        member = ' class="member"' if line.label.startswith("  ") else ""
        blank = len(sheet.headings) - len(line.cells)
        cells = "".join(f"<td>{escape(text)}</td>" for text in line.cells)
        label = f'<th scope="row"{member}>{escape(line.label.strip())}</th>'
        rows.append(f"<tr>{label}{cells}{'<td></td>' * blank}</tr>")
    return (
        f'<div class="scroll"><table>{caption}<thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
