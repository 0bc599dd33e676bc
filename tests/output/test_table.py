"""Tables in Markdown, HTML and CSV."""

from __future__ import annotations

from mergekit_pcb.output.table import Cell, Table, as_csv, html, markdown

TABLE = Table(
    "A & B",
    ["model", "settings", "score"],
    [
        ["<base>", "a | b", Cell("0.1")],
        ["group"],
        ["  member", "", Cell("0.3", "± 0.01", best=True)],
    ],
    words=1,
    section=2,
)


def test_markdown() -> None:
    """What is best is bold, and a bar in a cell ends no cell."""
    scores = TABLE._replace(rows=[TABLE.rows[0], TABLE.rows[2]])
    assert markdown(scores).splitlines() == [
        "| model | settings | score |",
        "| --- | --- | ---: |",
        r"| <base> | a \| b | 0.1 |",
        "|   member |  | **0.3** ± 0.01 |",
    ]


def test_html() -> None:
    """Text is escaped, short rows are filled, and kinds of rows have their classes."""
    text = html(TABLE)
    assert "<caption>A &amp; B</caption>" in text
    assert '<th scope="col" class="words">settings</th>' in text
    assert '<tr><th scope="row">&lt;base&gt;</th><td class="words">a | b</td>' in text
    assert '<th scope="row">group</th><td class="words"></td><td></td></tr>' in text
    assert (
        '<tr class="first"><th scope="row" class="member">member</th>'
        '<td class="words"></td><td><b>0.3</b> <small>± 0.01</small></td></tr>'
    ) in text
    assert "caption" not in html(TABLE._replace(title=""))


def test_csv() -> None:
    """Nothing is an empty cell; a comma in a name does not divide it."""
    lines = [{"name": "a, b", "score": None}, {"name": "c", "score": 0.5}]
    assert as_csv(lines) == 'name,score\n"a, b",\nc,0.5\n'
