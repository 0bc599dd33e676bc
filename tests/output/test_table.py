"""Tables in Markdown, HTML and CSV."""

from __future__ import annotations

import re

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
        r"| \<base> | a \| b | 0.1 |",
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


HOSTILE = "<script>x</script> `a|b` [c](d) *e* _f_ g_h &lt; \\ \x1b[2J\nnext\u202e"


def test_names_are_text_in_markdown() -> None:
    """As a reader of GitHub's Markdown sees it, in one cell of one line."""
    table = Table(HOSTILE, ["", HOSTILE], [[HOSTILE, Cell(HOSTILE, HOSTILE)]])
    text = markdown(table)
    assert len(text.splitlines()) == 3
    assert text.replace("\n", "").isprintable()
    # What a backslash stands before is neither the end of a cell nor anything else.
    bare = re.sub(r"\\.", "", text)
    assert {line.count("|") for line in bare.splitlines()} == {3}
    assert not set("<`[*&") & set(bare)
    assert "_f" not in bare
    assert "g_h" in bare


def test_names_are_text_in_html() -> None:
    """No tag comes from a name, and no control character."""
    text = html(Table(HOSTILE, ["", HOSTILE], [[HOSTILE, Cell(HOSTILE, HOSTILE)]]))
    assert "<script" not in text
    assert text.isprintable()
    assert r"\x1b[2J\nnext\u202e" in text


def test_csv() -> None:
    """Nothing is an empty cell; a comma in a name does not divide it."""
    lines = [{"name": "a, b", "score": None}, {"name": "c", "score": 0.5}]
    assert as_csv(lines) == 'name,score\n"a, b",\nc,0.5\n'
