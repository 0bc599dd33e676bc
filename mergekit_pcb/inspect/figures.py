"""The pictures of an inspection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mergekit_pcb.inspect.inspection import Inspection
from mergekit_pcb.inspect.quantities import cosine, relative_norms
from mergekit_pcb.inspect.tables import clipped
from mergekit_pcb.kernel.metrics import Array, Metrics, total
from mergekit_pcb.output.figures import (
    Picture,
    colorbar,
    heat_map,
    label_bars,
    layer_axis,
    legend,
    new_figure,
    spans,
)
from mergekit_pcb.plugin.tensor_kinds import OUTSIDE
from mergekit_pcb.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COSINE = (
    "Cosine similarity of the task vectors, over the whole model. Near 0, models have "
    "changed different things; above, they pull in the same direction; below, they "
    "undo each other's work."
)
_NORMS = "How far each model has moved from the base, layer by layer."
_MERGED = (
    "Norm of what the merge adds to the base, over the norm of the mean of the task "
    "vectors. Above 1, the merge moves further than the plain average would; near 0, "
    "it is the base model."
)
_WINNERS = (
    "Who wins: of the weights that anybody keeps, those where a model's share of the "
    "merged value is the largest."
)
_KEPT = (
    "Share of the weights that each model keeps, by layer and kind of tensor. White is "
    "the average over the whole model, orange more, purple less; hatched, there is no "
    "such tensor."
)

_WIDTH = 8.4
_LESS_TO_MORE = ("#6a51a3", "#f7f7f7", "#d9730d")


def pictures(inspection: Inspection) -> list[Picture]:
    """All pictures that this inspection has something to show on."""
    found = []
    if len(inspection.models) > 1:
        found.append(Picture("cosine", _COSINE, partial(_cosine, inspection)))
    if _numbered(inspection):
        found.append(Picture("norms", _NORMS, partial(_norms, inspection)))
        found.append(Picture("merged", _MERGED, partial(_merged, inspection)))
    for k, setting in enumerate(inspection.settings):
        name = str(setting).replace(",", "").replace(" ", "-")
        if len(inspection.models) > 1:
            draw = partial(_winners, inspection, k)
            found.append(Picture(f"winners-{name}", _WINNERS, draw, k))
        draw = partial(_kept, inspection, k)
        found.append(Picture(f"kept-{name}", _KEPT, draw, k))
    return found


def _names(inspection: Inspection) -> list[str]:
    names = [clipped(printable(name), 26) for name in inspection.short_models()]
    if len(set(names)) < len(names):
        return [f"{i + 1} {name}" for i, name in enumerate(names)]
    return names


def _numbered(inspection: Inspection) -> dict[str, Metrics]:
    layers = inspection.layers()
    layers.pop(OUTSIDE, None)
    return layers


def _cosine(inspection: Inspection) -> Figure:
    names, n = _names(inspection), len(inspection.models)
    values = np.array(inspection.whole.cosines(), dtype=float)  # None becomes NaN
    np.fill_diagonal(values, np.nan)
    # The whole range would show task vectors, which are nearly orthogonal, as white.
    limit = max(math.ceil(20 * np.nan_to_num(abs(values)).max()) / 20, 0.1)
    side = max(0.62 * n, 1.8)
    figure, (axes,) = new_figure(side + 2.8, side + 1.1)
    image = heat_map(axes, values.tolist(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_xticks(range(n), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), names)
    axes.set_title("Task vectors, whole model")
    for i, j in np.argwhere(~np.isnan(values)):
        ink = "#1f2328" if abs(values[i, j]) < 0.6 * limit else "#ffffff"
        axes.text(j, i, cosine(values[i, j]), ha="center", va="center", color=ink)
    colorbar(figure, image, axes, "cosine similarity")
    return figure


def _norms(inspection: Inspection) -> Figure:
    layers = _numbered(inspection)
    norms = [relative_norms(metrics) for metrics in layers.values()]
    values = 100 * np.array(norms, dtype=float)
    figure, axes = _lines(list(layers), _names(inspection), values)
    axes.set_title("Distance from the base")
    axes.set_ylabel("norm of the task vector,\n% of the base's")
    return figure


def _merged(inspection: Inspection) -> Figure:
    from matplotlib import rcParams

    layers = _numbered(inspection)
    ratios = [[m.merged_over_mean(c) for c in m.outcomes] for m in layers.values()]
    values = np.array(ratios, dtype=float)
    figure, axes = _lines(list(layers), list(map(str, inspection.settings)), values)
    axes.axhline(1, color=rcParams["text.color"], linewidth=1, linestyle=":")
    axes.set_title("What the merge adds")
    axes.set_ylabel("norm of the merged task vector\nover that of the mean")
    return figure


def _lines(
    layers: Sequence[str], names: Sequence[str], values: Array
) -> tuple[Figure, Axes]:
    """A line for each column of values, over the layers."""
    figure, (axes,) = new_figure(_WIDTH, 2.6)
    at = [start for start, _ in spans(layers)]
    # The last layer of one stack has nothing to do with the first of the next.
    apart = np.full((at[-1] + 1, len(names)), np.nan)
    apart[at] = values
    axes.plot(apart, label=names, marker="o", markersize=3.5)
    axes.set_ylim(0, 1.1 * (np.nan_to_num(values).max() or 1))
    axes.set_xlim(-0.7, at[-1] + 0.7)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    layer_axis(axes, layers, _WIDTH)
    legend(figure, axes)
    return figure, axes


def _winners(inspection: Inspection, k: int) -> Figure:
    from matplotlib import rcParams

    layers = inspection.layers()
    nobody = [0.0] * len(inspection.models)
    shares = [
        [*(competition.win_shares() or nobody), competition.tied_share() or 0.0]
        for competition in (metrics.outcomes[k] for metrics in layers.values())
    ]
    wins = 100 * np.array(shares).T
    figure, (axes,) = new_figure(_WIDTH, 2.6)
    where = spans(list(layers))
    middles = [(start + end - 1) / 2 for start, end in where]
    # With many bars, gaps would be seen as stripes.
    gap = 0.1 if len(where) <= 40 else 0.0
    widths = [end - start - gap for start, end in where]
    for i, name in enumerate([*_names(inspection), "tied"]):
        tied = i == len(inspection.models)
        if tied and wins[i].max() < 0.1:
            break
        ink = rcParams["axes.edgecolor"] if tied else f"C{i}"
        below = wins[:i].sum(axis=0)
        bars = axes.bar(middles, wins[i], widths, below, color=ink, label=name)
        label_bars(axes, bars, _WIDTH / where[-1][1])
    axes.set_ylim(0, 100)
    axes.set_ylabel("wins, %")
    axes.set_title(f"Winners: {inspection.settings[k]}")
    axes.set_xlim(-0.7, where[-1][1] - 0.3)
    layer_axis(axes, list(layers), _WIDTH)
    legend(figure, axes)
    return figure


def _kept(inspection: Inspection, k: int) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    layers = inspection.by_layer()
    names = _names(inspection)
    kinds = list(inspection.kinds())
    where = spans(list(layers))
    panels = np.full((len(names), len(kinds), where[-1][1]), np.nan)
    for (start, end), tensors in zip(where, layers.values(), strict=True):
        for row, kind in enumerate(kinds):
            found = [tensor.metrics for tensor in tensors if tensor.kind == kind]
            if found:
                shares = np.array(total(found).outcomes[k].kept_shares())
                panels[:, row, start:end] = 100 * shares[:, None]
    # If nobody keeps anything, the colours still need a range.
    average = 100 * np.mean(inspection.whole.outcomes[k].kept_shares()) or 1.0
    norm = TwoSlopeNorm(average, 0, max(np.nanmax(panels), 2 * average))
    colours = LinearSegmentedColormap.from_list("kept", _LESS_TO_MORE)
    columns = 2 if len(names) > 4 else 1
    rows = math.ceil(len(names) / columns)
    height = 0.5 + rows * (0.75 + 0.2 * len(kinds))
    figure, grid = new_figure(_WIDTH, height, rows, columns)
    for i, (axes, name, panel) in enumerate(zip(grid, names, panels, strict=False)):
        options = {"cmap": colours, "norm": norm, "aspect": "auto"}
        image = heat_map(axes, panel.tolist(), **options)
        axes.set_yticks(range(len(kinds)), kinds)
        axes.set_title(name)
        if i + columns < len(names):
            axes.set_xticks([])
        else:
            layer_axis(axes, list(layers), 0.8 * _WIDTH / columns)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    text = f"Kept: {inspection.settings[k]}"
    figure.suptitle(text, x=0.01, ha="left", fontsize="medium")
    colorbar(figure, image, grid, "kept, %")
    return figure
