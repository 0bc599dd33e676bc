"""Defaults, ranges and measured numbers on the pages are those of code and results."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from mergekit.merge_methods import get
from mergekit.merge_methods.base import ParameterScope, ParameterSpec

from experiments import results
from tests.pages import (
    README,
    ROOT,
    blocks,
    recipes,
    rows,
    text_of,
)

HEADINGS = ["name", "where", "default", "range", "effect"]


def densities(recipe: str) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Key and value of every `density` in the documents for pcb."""

    def below(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == "density":
                    yield key, value
                yield from below(value)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from below(item)

    for root in yaml.compose_all(recipe):
        if "pcb" in [v.value for k, v in root.value if k.value == "merge_method"]:
            yield from below(root)


@pytest.mark.parametrize(("place", "recipe"), recipes())
def test_densities_are_the_default_or_explained(place: str, recipe: str) -> None:
    """A recipe with another density than the default says so, on the same line."""
    default = parameter("density").default
    for key, value in densities(recipe):
        line = recipe.splitlines()[key.start_mark.line]
        scalar = isinstance(value, yaml.ScalarNode)
        is_default = scalar and yaml.safe_load(value.value) == default
        says_not = re.search(r"# .*\b(differs from|more than|less than) the def", line)
        assert is_default != bool(says_not), f"{place}: {line}"


def parameter(name: str) -> ParameterSpec:
    return next(p for p in get("pcb").spec.parameters if p.name == name)


def parameter_rows() -> list[tuple[str, list[str]]]:
    """Parameter and cells of each line of the README's parameter table."""
    table = rows(README)
    start = table.index(HEADINGS) + 2
    body = itertools.takewhile(lambda row: len(row) == len(HEADINGS), table[start:])
    return [(name, row) for row in body for name in re.findall(r"`(\w+)`", row[0])]


def test_parameter_table_is_complete() -> None:
    """The README lists the method's parameters, all of them, in their order."""
    own = [p.name for p in get("pcb").spec.parameters]
    assert [name for name, _ in parameter_rows()] == own


@pytest.mark.parametrize(("name", "row"), parameter_rows())
def test_parameter_table_agrees_with_the_method(name: str, row: list[str]) -> None:
    """Place, default and range in the README are those of the code."""
    _, where, default, values, _ = row
    own = parameter(name)
    assert (where == "per model") == (own.scope == ParameterScope.NON_BASE)
    written = yaml.safe_load(default.strip("`"))
    assert (None if written == "none" else written) == own.default
    right, wrong = inside_and_outside(values)
    for value in right:
        assert own.validate(value) == value
    for value in wrong:
        with pytest.raises(Exception, match=r".+"):
            own.validate(value)


def inside_and_outside(values: str) -> tuple[list[Any], list[Any]]:
    """Values at and beyond the ends of a range, as the table writes it."""
    interval = re.fullmatch(r"([(\[])([\d.]+), ([\d.]+)([)\]])", values)
    if interval:
        opening, low, high, closing = interval.groups()
        ends = {float(low): opening == "[", float(high): closing == "]"}
        right = [end for end, included in ends.items() if included]
        wrong = [end for end, included in ends.items() if not included]
        beyond = [float(low) - 0.01, float(high) + 0.01]
        return [*right, (float(low) + float(high)) / 2], [*wrong, *beyond]
    if values == "`auto`, finite":
        return ["auto", -3.0, 1e6], [math.inf, math.nan, "auot"]
    if choices := re.findall(r"`(\w+)`", values):
        return choices, ["neither", 1]
    return {
        "finite": ([-3.0, 0.0, 1e6], [math.inf, math.nan, "much"]),
        "a file": (["pcb.json", None], [1, ""]),
        "boolean": ([True, False], ["perhaps"]),
    }[values]


RESULT_TABLES = {
    "docs/performance.md": [
        "benchmark_merge",
        "kernel",
        "benchmark_depth",
        "benchmark_search",
        "benchmark_small",
    ],
}


@pytest.mark.parametrize("page", RESULT_TABLES)
def test_tables_are_those_of_the_results(page: str) -> None:
    """Measured tables stand in the docs line by line as the experiments wrote them."""
    lines = set(text_of(ROOT / page).splitlines())
    for name in RESULT_TABLES[page]:
        result = text_of(ROOT / f"experiments/results/{name}.md")
        table = [line for line in result.splitlines() if line.startswith("|")]
        assert len(table) > 4
        assert not [line for line in table if line not in lines], name


def test_tables_of_the_results_are_those_that_were_measured() -> None:
    """`experiments.results` prints the page of tables, and the other is taken of it."""
    page = text_of(ROOT / "docs/results-tables.md")
    assert page == "\n".join(results.render(results.RESULTS)) + "\n"
    shown = re.findall(r"^\| .*\d\.\d\d.*\|$", text_of(ROOT / "docs/results.md"), re.M)
    # The tries are no measurement.
    shown = [line for line in shown if "; lambda" not in line and "`" not in line]
    assert len(shown) > 40
    assert set(shown) <= set(page.splitlines())


@pytest.mark.parametrize(
    ("section", "result"),
    [
        ("Does it help?", "docs/results-tables.md"),
        ("What it costs", "experiments/results/benchmark_merge.md"),
    ],
)
def test_numbers_of_the_readme_are_measured(section: str, result: str) -> None:
    """Each line of the README's tables has numbers of one line of the results."""
    text = text_of(README).partition(f"## {section}\n")[2].partition("\n## ")[0]
    number = re.compile(r"[+-]?\d+\.?\d*")
    lines = re.findall(r"^\| (?!---)(.*\d.*)\|$", text, re.M)
    results = text_of(ROOT / result).splitlines()
    measured = [set(number.findall(line)) for line in results if line[:1] == "|"]
    assert len(lines) > 4
    for line in lines:
        assert any(set(number.findall(line)) <= row for row in measured), line


def test_citation() -> None:
    """CITATION.cff has what the format requires, and cites the paper."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == "MIT"
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert "2410.02396" in {i["value"].partition(":")[2] for i in paper["identifiers"]}
    assert paper in citation["references"]
    names = " ".join(text_of(README).split())
    for author in paper["authors"]:
        assert f"{author['given-names']} {author['family-names']}" in names
    for page in (README, ROOT / "docs/methods.md"):
        (entry,) = blocks(page, "bibtex")
        written = re.search(r"author\s*= \{(.*?)\}", entry, re.S)
        assert written is not None
        assert re.split(r"\s+and\s+", written[1]) == [
            f"{author['family-names']}, {author['given-names']}"
            for author in paper["authors"]
        ]
        assert f"{{{paper['title']}}}" in entry
