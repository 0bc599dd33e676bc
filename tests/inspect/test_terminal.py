"""An inspection on the terminal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mergekit_pcb.inspect import tables
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.terminal import show
from tests.inspect.helpers import Family, inspect
from tests.tiny import recipe_of, save_llama


def test_terminal(found: Inspection, capsys: pytest.CaptureFixture[str]) -> None:
    """Within 80 columns, without colour or trailing blanks when it goes to a file."""
    names = tuple(f"/models/a-name-{'that-goes-on-' * i}and-on" for i in range(3))
    show(dataclasses.replace(found, models=names), layers=True, legend=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "\x1b" in line or line != line.rstrip()]
    assert "Density 0.2, scope tensor (the recipe)" in lines
    assert [line for line in lines if line.startswith("merged / mean ")]
    assert [line for line in lines if line.startswith("outside ")]


def test_numbers_are_never_cut(
    found: Inspection, capsys: pytest.CaptureFixture[str]
) -> None:
    """Long names give way, in their middle, and so do long names of layers."""
    names = tuple(f"/models/a-name-that-goes-on-and-on-number-{i}" for i in range(3))
    tensors = tuple(
        dataclasses.replace(tensor, name=stack + tensor.name)
        for tensor in found.tensors
        for stack in ("encoder.", "decoder.")
    )
    inspection = dataclasses.replace(found, models=names, tensors=tensors)
    show(inspection, layers=True, legend=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    table = tables.by_layer(inspection, 0)
    start = lines.index("The same by layer")
    assert lines[start + 1].split() == [*table.headings[1:-2], "wins", "most", "%"]
    for line, row in zip(lines[start + 3 :], table.rows, strict=False):
        assert line.startswith(row[0] + " ")
        *numbers, name, share = line.removeprefix(row[0]).split()
        assert [*numbers, share] == [*row[1:-2], row[-1]]
        assert "…" in name
        assert name[-1] == row[-2][-1]


def test_tables_by_kind_stand_below_each_other(
    found: Inspection, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kind of tensor ends in the same column of the screen in all of them."""
    show(found, layers=False, legend=False)
    lines = capsys.readouterr().out.splitlines()
    headings = {line for line in lines if line.endswith(" all")}
    (heading,) = headings
    assert len(heading) == 80


def test_everything_is_printed_in_order(
    found: Inspection, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary, the task vectors, and then each setting."""
    show(found, layers=True, legend=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("recipe.yml: pcb, 3 models fine-tuned from base")
    layers = tables.by_layer(found, 0).title
    titles = ["Task vectors", "Cosine similarity"]
    for k in (0, 1):
        titles += [tables.competition(found, k).title, layers]
    assert [line for line in lines if line in titles] == titles


def test_warnings_legend_and_layers(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warnings are always printed, the legend and the layers where asked for."""
    base, _ = family
    copy = save_llama(tmp_path / "copy", base.tensors)
    inspection = inspect(recipe_of(base, [copy]), tmp_path)
    show(inspection, layers=False, legend=False)
    plain = capsys.readouterr().out
    assert "copy is the base model" in plain
    assert "Cosine similarity" not in plain
    assert "The same by layer" not in plain
    assert "keeps: " not in plain
    show(inspection, layers=True, legend=True)
    more = capsys.readouterr().out
    assert "The same by layer" in more
    assert "\nkeeps: The model is one of those" in more
