"""What the README and docs/ say agrees with the code and the files."""

from __future__ import annotations

import html
import importlib.util
import itertools
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

from experiments.pictures import WRONG_RECIPE
from mergekit_pcb.cli import SUBCOMMANDS, main
from mergekit_pcb.compare.candidates import in_word
from mergekit_pcb.compare.evaluation import ALL
from mergekit_pcb.compare.function import Function
from mergekit_pcb.compare.grids import GRIDS
from tests.pages import (
    PAGES,
    README,
    ROOT,
    blocks,
    name_of,
    recipes,
    rows,
    text_of,
)

# How the README names files of this repository, which must also work on the package
# index.
FILE_URL = "https://github.com/mergekit-pcb/mergekit-pcb/blob/main/"
PICTURE_URL = "https://raw.githubusercontent.com/mergekit-pcb/mergekit-pcb/main/"


class Link(NamedTuple):
    """A link, and the file of the repository that it leads to."""

    page: Path
    target: str
    file: Path
    anchor: str


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


@pytest.mark.slow
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
    if name == "evolve":  # it takes those of mergekit-evolve
        spec = importlib.util.find_spec("mergekit.scripts.evolve")
        assert spec is not None
        assert spec.origin is not None
        source += text_of(Path(spec.origin))
    for word in shlex.split(arguments):
        if word.startswith("--") and word != "--help":
            assert re.search(rf'["/]{word}["/]', source), word


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


def test_recipes_of_pages_pass_check(tmp_path: Path) -> None:
    """Every recipe that a page shows is without mistakes."""
    shown = [recipe for place, recipe in recipes() if place.endswith(".md")]
    assert shown
    for number, recipe in enumerate(shown):
        file = tmp_path / f"{number}.yml"
        file.write_text(recipe, encoding="utf-8")
        result = CliRunner().invoke(main, ["check", "--strict", str(file)])
        assert result.exit_code == 0, result.output
