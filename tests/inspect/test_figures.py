"""The pictures of an inspection: what is drawn is what was measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from mergekit_pcb.inspect.figures import pictures
from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.kernel.metrics import total
from mergekit_pcb.output.figures import LIGHT


def drawn(inspection: Inspection, name: str) -> Figure:
    (picture,) = (p for p in pictures(inspection) if p.name == name)
    with rc_context(LIGHT):
        return picture.draw()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_of_each_for_each_setting(found: Inspection) -> None:
    """Pictures of task vectors first, then two of each setting."""
    scopes = ("tensor", "model")
    assert [(p.name, p.setting) for p in pictures(found)] == [
        *((name, None) for name in ("cosine", "norms", "merged")),
        *(
            (f"{what}-density-0.2-scope-{scope}", k)
            for k, scope in enumerate(scopes)
            for what in ("winners", "kept")
        ),
    ]


@pytest.mark.parametrize(
    ("name", "title", "label"),
    [
        (
            "norms",
            "Distance from the base",
            "norm of the task vector,\n% of the base's",
        ),
        (
            "merged",
            "What the merge adds",
            "norm of the merged task vector\nover that of the mean",
        ),
        (
            "winners-density-0.2-scope-model",
            "Winners: density 0.2, scope model",
            "wins, %",
        ),
    ],
)
def test_axes_say_what_they_show(
    found: Inspection, name: str, title: str, label: str
) -> None:
    """A title, a unit, the layers, and a vertical axis that begins at 0."""
    (axes,) = drawn(found, name).axes
    assert axes.get_title(loc="left") == title
    assert axes.get_ylabel() == label
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert ticks[:2] == ["0", "1"]
    assert [text.get_text() for text in axes.get_xticklabels(minor=True)] == ["layer"]
    assert axes.get_ylim()[0] == 0


def test_cosine(found: Inspection) -> None:
    """A matrix without its diagonal, each number in its cell."""
    axes, bar = drawn(found, "cosine").axes
    matrix = np.array(found.whole.cosines())
    shown = axes.images[0].get_array().filled(np.nan)
    assert np.isnan(shown.diagonal()).all()
    others = ~np.eye(3, dtype=bool)
    assert shown[others] == pytest.approx(matrix[others])
    assert len(axes.texts) == 6
    label = axes.texts[0]
    assert label.get_position() == (1, 0)
    assert float(label.get_text()) == pytest.approx(matrix[0, 1], abs=0.005)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [text.get_text() for text in labels] == found.short_models()
    assert axes.get_title(loc="left") == "Task vectors, whole model"
    assert bar.get_ylabel() == "cosine similarity"


def test_norms(found: Inspection) -> None:
    """A line for each model over the layers, in percent of the base's norm."""
    figure = drawn(found, "norms")
    (axes,) = figure.axes
    layers = list(found.layers().values())[:2]
    for i, line in enumerate(axes.lines):
        norms = [100 * m.norms()[i] / m.base_square**0.5 for m in layers]
        assert list(line.get_xdata()) == [0, 1]
        assert list(line.get_ydata()) == pytest.approx(norms)
    assert texts(figure) == found.short_models()
    assert axes.get_ylim()[1] > max(line.get_ydata().max() for line in axes.lines)


def test_merged(found: Inspection) -> None:
    """A line for each setting, and one where the merge is as long as the mean."""
    figure = drawn(found, "merged")
    *lines, one = figure.axes[0].lines
    layers = list(found.layers().values())[:2]
    for k, line in enumerate(lines):
        ratios = [m.merged_over_mean(m.outcomes[k]) for m in layers]
        assert list(line.get_ydata()) == pytest.approx(ratios)
    assert list(one.get_ydata()) == [1, 1]
    assert texts(figure) == list(map(str, found.settings))


def test_winners(found: Inspection) -> None:
    """Bars as high as the shares won, one upon the other up to 100 %."""
    figure = drawn(found, "winners-density-0.2-scope-model")
    bars = figure.axes[0].containers
    layers = found.layers().values()
    for i in range(3):
        shares = [100 * (m.outcomes[1].win_shares() or [])[i] for m in layers]
        assert [bar.get_height() for bar in bars[i]] == pytest.approx(shares)
    tops = [bar.get_y() + bar.get_height() for bar in bars[2]]
    tied = [100 * (m.outcomes[1].tied_share() or 0) for m in layers]
    assert np.add(tops, tied) == pytest.approx(100)
    assert texts(figure)[:3] == found.short_models()


def test_ties_are_drawn_where_they_are_seen(found: Inspection) -> None:
    """Norms are small enough for ties; without any, the legend has no such entry."""
    name = "winners-density-0.2-scope-tensor"
    norms = tuple(t for t in found.tensors if t.kind == "norm")
    assert any(t.metrics.outcomes[0].tied for t in norms)
    assert texts(drawn(dataclasses.replace(found, tensors=norms), name))[3:] == ["tied"]
    one = tuple(t for t in found.tensors if not t.metrics.outcomes[0].tied)
    assert texts(drawn(dataclasses.replace(found, tensors=one), name))[3:] == []


def test_kept(found: Inspection) -> None:
    """A panel for each model: kinds of tensors by layers, with holes."""
    *panels, bar = drawn(found, "kept-density-0.2-scope-tensor").axes
    mlp = [
        total(t.metrics for t in found.by_layer()[layer] if t.kind == "MLP")
        for layer in ("0", "1")
    ]
    (head,) = (t.metrics for t in found.tensors if t.kind == "head")
    for i, axes in enumerate(panels):
        assert axes.get_title(loc="left") == f"tuned{i}"
        shown = axes.images[0].get_array().filled(np.nan)
        assert shown.shape == (5, 4), "two layers, a gap, and what is outside"
        kept = [100 * metrics.outcomes[0].kept_shares()[i] for metrics in mlp]
        assert list(shown[2, :2]) == pytest.approx(kept)
        assert np.isnan(shown[2, 2:]).all()
        assert np.isnan(shown[4, :3]).all()
        assert shown[4, 3] == pytest.approx(100 * head.outcomes[0].kept_shares()[i])
    assert panels[0].get_figure().get_suptitle() == "Kept: density 0.2, scope tensor"
    layers = [[text.get_text() for text in axes.get_xticklabels()] for axes in panels]
    assert layers == [[], [], ["0", "1", "outside"]]
    kinds = [text.get_text() for text in panels[0].get_yticklabels()]
    assert kinds == list(found.kinds())
    assert bar.get_ylabel() == "kept, %"


def test_stacks_are_set_apart(found: Inspection) -> None:
    """The last layer of one stack is not joined to the first of the next."""
    tensors = tuple(
        dataclasses.replace(tensor, name=stack + tensor.name)
        for stack in ("encoder.", "decoder.")
        for tensor in found.tensors
    )
    figure = drawn(dataclasses.replace(found, tensors=tensors), "norms")
    for line in figure.axes[0].lines:
        assert np.isnan(line.get_ydata()).tolist() == [False, False, True, False, False]
    assert texts(figure) == found.short_models()
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels(minor=True)]
    assert labels == ["encoder layer", "decoder layer"]


def test_long_names_that_look_alike_are_numbered(found: Inspection) -> None:
    """Where shortening makes two names one, their numbers tell them apart."""
    middle = "differs-in-its-very-middle"
    models = tuple(f"start-of-{i}-{middle}-{i}-{middle}-of-a-name" for i in range(3))
    names = texts(drawn(dataclasses.replace(found, models=models), "norms"))
    assert [name[:2] for name in names] == ["1 ", "2 ", "3 "]
    assert all(len(name) <= 28 for name in names)
