"""What the README and docs/ say agrees with the code, the files and the results."""

from __future__ import annotations

import html
import itertools
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml
from click.testing import CliRunner
from mergekit.merge_methods import get
from mergekit.merge_methods.base import ParameterScope, ParameterSpec

from experiments import results
from experiments.pictures import WRONG_RECIPE
from mergekit_pcb.cli import SUBCOMMANDS, main
from mergekit_pcb.compare.candidates import in_word
from mergekit_pcb.compare.evaluation import ALL
from mergekit_pcb.compare.function import Function
from mergekit_pcb.compare.grids import GRIDS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PATTERNS = ("*.md", "docs/*.md", "example_configs/*.md", "experiments/*.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
EXAMPLES = sorted(ROOT.glob("example_configs/**/*.yml"))
# How the README names files of this repository, which must also work on the package
# index.
FILE_URL = "https://github.com/mergekit-pcb/mergekit-pcb/blob/main/"
PICTURE_URL = "https://raw.githubusercontent.com/mergekit-pcb/mergekit-pcb/main/"
HEADINGS = ["name", "where", "default", "range", "effect"]


class Link(NamedTuple):
    """A link, and the file of the repository that it leads to."""

    page: Path
    target: str
    file: Path
    anchor: str


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.M | re.S)


def outside_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", outside_blocks(page), re.M)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s+", "-", heading) for heading in words}


def links() -> Iterator[Link]:
    """Every link into this repository."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", outside_blocks(page)):
            path, _, anchor = target.partition("#")
            for url in (FILE_URL, PICTURE_URL):
                if path.startswith(url):
                    yield Link(page, target, ROOT / path.removeprefix(url), anchor)
            if "://" not in path:
                file = (page.parent / path) if path else page
                yield Link(page, target, file.resolve(), anchor)


def rows(page: Path) -> list[list[str]]:
    lines = re.findall(r"^\|(.+)\|$", text_of(page), re.M)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and arguments of every `mergekit-pcb` command in a block of sh."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part, comments=True)
                    if words and Path(words[0]).name == "mergekit-pcb":
                        yield name_of(page), words[1:]


def experiments() -> list[tuple[str, str]]:
    """Module and arguments of every experiment that a page runs."""
    pattern = r"python -m experiments\.(\w+)((?: [^`\n]*)?)"
    found = itertools.chain.from_iterable(
        re.findall(pattern, text_of(page)) for page in PAGES
    )
    return sorted(set(found))


def parsed(command: click.Command, arguments: list[str]) -> dict[str, Any]:
    """Option values as written; raises click's errors for unknown options."""
    context = click.Context(command)
    values, _, _ = command.make_parser(context).parse_args(list(arguments))
    return values


def subcommand(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"no command {name}"
    return command


def test_links_lead_to_files_and_headings() -> None:
    """Every link into the repository names a file in it, and a heading if any."""
    found = list(links())
    assert len(found) > 30
    for link in found:
        assert link.file.exists(), f"{name_of(link.page)}: {link.target}"
        if link.anchor:
            assert link.anchor in anchors(link.file), (
                f"{name_of(link.page)}: {link.target}"
            )


def test_readme_links_work_elsewhere() -> None:
    """The package index shows the README without the files beside it."""
    for link in links():
        if link.page == README:
            assert "://" in link.target or link.target.startswith("#"), link.target


def test_site_links_stay_in_docs() -> None:
    """The site has the files of docs/ only."""
    for link in links():
        if link.page.parent == ROOT / "docs" and "://" not in link.target:
            assert link.file.is_relative_to(ROOT / "docs"), link.target


def test_pictures_are_shown() -> None:
    """No picture is left over, and every one has a text for those who do not see it."""
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[.{20,}?\]\(([^)]+)\)", text_of(page))
    }
    assert set((ROOT / "docs/pictures").iterdir()) <= shown


def test_every_page_is_in_the_site() -> None:
    """mkdocs.yml lists every page of docs/, and nothing is loaded from elsewhere."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {file for entry in site["nav"] for file in entry.values()}
    assert listed == {page.name for page in ROOT.glob("docs/*.md")}
    assert site["theme"]["font"] is False


@pytest.mark.parametrize(("page", "arguments"), list(commands()))
def test_commands_exist(page: str, arguments: list[str]) -> None:
    """Every command of a page is one of ours, with options that it has."""
    command = subcommand(arguments[0])
    values = parsed(command, arguments[1:])
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and parameter.name in values:
            value = values[parameter.name]
            for word in value if isinstance(value, list) else [value]:
                assert word in parameter.type.choices, f"{page}: {word}"


def test_options_in_sentences_exist() -> None:
    """`mergekit-pcb merge --save-statistics` in a sentence names what is there."""
    pattern = r"`mergekit-pcb ([a-z]\w*)((?: [^`]*)?)`"
    found = [m for page in PAGES for m in re.findall(pattern, text_of(page))]
    assert len(found) > 10
    for name, rest in found:
        known = {o for p in subcommand(name).params for o in (*p.opts, "--help")}
        options = set(re.findall(r"--[a-z][a-z-]*", rest))
        assert options <= known, f"mergekit-pcb {name}{rest}"


def test_every_command_is_documented() -> None:
    """docs/commands.md has a section and a table row for each."""
    page = ROOT / "docs/commands.md"
    assert set(SUBCOMMANDS) <= anchors(page)
    assert {f"[`{name}`](#{name})" for name in SUBCOMMANDS} <= {
        r[0] for r in rows(page)
    }


@pytest.mark.parametrize(
    ("page", "code"),
    [(name_of(page), code) for page in PAGES for code in blocks(page, "python")],
)
def test_python_of_pages_runs(page: str, code: str) -> None:
    """What a page shows can be pasted, imports included, into a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MERGEKIT_PCB_AUTOLOAD": "0"},
    )
    assert run.returncode == 0, f"{page}: {run.stderr}"


def test_python_of_the_page_of_commands_merges() -> None:
    """The example of `merge_state_dicts` gives a merge of its three models."""
    _, code, _ = blocks(ROOT / "docs/commands.md", "python")
    names: dict[str, Any] = {}
    exec(code, names)
    merged, base = names["merged"]["layer.weight"], names["base"]["layer.weight"]
    assert 0.2 < (merged != base).double().mean() < 0.4


def test_the_function_on_the_page_of_commands_gives_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example for `--evaluate` is imported and called as `compare` does it."""
    code = blocks(ROOT / "docs/commands.md", "python")[0]
    ask = "def ask(model_dir):\n    return [1, 0], [6.0, 3.0], [4, 2]\n"
    (tmp_path / "example_on_the_page.py").write_text(ask + code)
    monkeypatch.syspath_prepend(tmp_path)
    function = Function("example_on_the_page:evaluate")
    scores = function(tmp_path, ALL, lambda percent: None)
    found = {name: (s.value, s.higher_is_better) for name, s in scores.items()}
    assert found == {
        "accuracy": (0.5, True),
        "bits_per_byte": (1.5, False),
        "speed": (12.5, True),
    }


def test_the_page_of_commands_lists_every_automatic_grid() -> None:
    """Methods and values of `--sweep auto`, as the code has them."""
    text = text_of(ROOT / "docs/commands.md")
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", text, re.M)
    listed = {
        name: values.partition(":")[0]
        for names, values in rows
        for name in re.findall(r"`([^`]*)`", names)
    }
    for method, grid in GRIDS.items():
        shown = [f"{n} {', '.join(map(in_word, values))}" for n, values in grid.items()]
        assert listed[method] == " × ".join(shown)


def test_picture_of_check_shows_what_check_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line, for the recipe that the picture is made of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yml").write_text(WRONG_RECIPE)
    printed = CliRunner().invoke(main, ["check", "recipe.yml"]).stdout.split()
    picture = text_of(ROOT / "docs/pictures/check.svg")
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", picture)
    shown = "".join(html.unescape("".join(texts)).split())
    assert printed
    assert "".join(printed) in shown


@pytest.mark.parametrize(("name", "arguments"), experiments())
def test_experiments_exist(name: str, arguments: str) -> None:
    """Every experiment that a page runs is there, with the options given."""
    source = text_of(ROOT / f"experiments/{name}.py")
    for word in shlex.split(arguments):
        assert not word.startswith("--") or word == "--help" or f'"{word}"' in source


# Files that the page names and the tree does not have yet.


def test_files_of_the_architecture_exist() -> None:
    """docs/architecture.md names files of the tree."""
    text = text_of(ROOT / "docs/architecture.md")
    named = set(re.findall(r"`([\w/]+/\w+\.py)`", text))
    assert len(named) > 15
    missing = {
        name.removeprefix("mergekit_pcb/")
        for name in named
        if not any((ROOT / folder / name).exists() for folder in ("", "mergekit_pcb"))
    }
    assert not missing


def recipes() -> list[tuple[str, str]]:
    found = [
        (name_of(page), block)
        for page in PAGES
        for block in blocks(page, "yaml")
        if "merge_method:" in block
    ]
    return found + [(name_of(file), text_of(file)) for file in EXAMPLES]


def test_recipes_of_pages_pass_check(tmp_path: Path) -> None:
    """Every recipe that a page shows is without mistakes."""
    shown = [recipe for place, recipe in recipes() if place.endswith(".md")]
    assert shown
    for number, recipe in enumerate(shown):
        file = tmp_path / f"{number}.yml"
        file.write_text(recipe, encoding="utf-8")
        result = CliRunner().invoke(main, ["check", "--strict", str(file)])
        assert result.exit_code == 0, result.output


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
    "docs/performance.md": ["benchmark_merge", "kernel", "benchmark_depth"],
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
