"""What pages for a browser share: one file, no script, no network, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

from mergekit_pcb.output.figures import Picture, shown_width
from mergekit_pcb.printable import printable

# Pixels of a page: 40rem, as below.
_WIDE = 640
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1f2328; --muted: #59636e;
  --line: #d8dee4; --stripe: #f6f8fa; --accent: #b34700; }
@media (prefers-color-scheme: dark) { :root { --page: #161b22; --text: #e6edf3;
  --muted: #9198a1; --line: #30363d; --stripe: #1c2129; --accent: #ffa657; } }
body { background: var(--page); color: var(--text); margin: 0 auto; padding: 2rem 1rem;
  max-width: 76rem; font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.answer { border-left: 4px solid var(--accent); padding-left: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; margin: 1rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; white-space: nowrap; }
tr { background: var(--page); }
th:first-child { text-align: left; padding-left: .25rem; position: sticky; left: 0;
  background: inherit; }
thead th { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 400; }
tbody tr:nth-child(even) { background: var(--stripe); }
tbody tr.first > * { border-top: 1px solid var(--line); }
.words { text-align: left; white-space: normal; min-width: 12rem; }
td.words, small, figcaption, footer, summary, dd { color: var(--muted);
  font-size: .875rem; }
b { color: var(--accent); }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
tbody th.member { padding-left: 1.5rem; }
dt { font-weight: 600; margin-top: .5rem; }
.alarm { color: var(--accent); font-weight: 600; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
img.wide { max-width: max(100%, 40rem); }
summary { cursor: pointer; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h1, p, li, figcaption { overflow-wrap: anywhere; }
@media (max-width: 40rem) { th, td { padding: .25rem .4rem; }
  tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
  tbody th.member { padding-left: .75rem; } }
"""


def escaped(text: str) -> str:
    """Text that a page shows as it is, on one line."""
    return escape(printable(text))


def page(title: str, body: Iterable[str]) -> str:
    """A whole page around lines of HTML."""
    lines = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f"<h1>{escaped(title)}</h1>",
        *body,
        "</body>\n</html>\n",
    ]
    return "\n".join(lines)


def figure(picture: Picture) -> str:
    """A picture and its caption."""
    light, dark = picture.png(), picture.png(dark=True)
    width = shown_width(light)
    # On a phone, wide pictures are scrolled rather than shrunk to nothing.
    kind = ' class="wide"' * (width > _WIDE)
    return (
        '<figure><div class="scroll"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{_embedded(dark)}">'
        f'<img{kind} src="{_embedded(light)}" width="{width}" '
        f'alt="{escaped(picture.name)}"></picture></div>'
        f"<figcaption>{escaped(picture.caption)}</figcaption></figure>"
    )


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
