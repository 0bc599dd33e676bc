"""The pages of the documentation, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PATTERNS = ("*.md", "docs/*.md", "example_configs/*.md", "experiments/*.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
EXAMPLES = sorted(ROOT.glob("example_configs/**/*.yml"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.M | re.S)


def rows(page: Path) -> list[list[str]]:
    lines = re.findall(r"^\|(.+)\|$", text_of(page), re.M)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def recipes() -> list[tuple[str, str]]:
    found = [
        (name_of(page), block)
        for page in PAGES
        for block in blocks(page, "yaml")
        if "merge_method:" in block
    ]
    return found + [(name_of(file), text_of(file)) for file in EXAMPLES]
