"""The pictures of a comparison: bars for every row, curves for what was swept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import cycle
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_pcb.compare.budget import SCALE
from mergekit_pcb.compare.columns import (
    MEAN,
    SHARE,
    Column,
    folded,
    row_name,
    summary_columns,
    task_column,
)
from mergekit_pcb.compare.scoreboard import BASE, MERGE, Row, Scoreboard, Tried
from mergekit_pcb.output.figures import Picture, legend, new_figure
from mergekit_pcb.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS = "Scores. Bars begin at the base, and to the right is better."
_WHISKERS = " Whiskers are standard errors over the items."
_COLOURS = " Orange: pcb. Grey: the experts."
# Names of the pictures that there may be.
NAMES = SCORES, SETTINGS = ("scores", "settings")
_MEASURES = "Measures of what was added to the base."
_CURVES = (
    "Score against the swept setting, on the items that choose; where several settings "
    "were swept, the best over the others. Large dots: the settings chosen."
)
# Two of the shared colours: a red orange, and a blue.
_PCB, _OTHER = "C5", "C0"
_PANELS = 5
# Beyond it matplotlib finds no ticks; such a score is that of a merge that diverged.
_LARGEST_DRAWN = 1e12
_WIDTH = 9.4


def pictures(scoreboard: Scoreboard, validation: Scoreboard) -> list[Picture]:
    """All pictures that there is something to show on.

    Args:
        scoreboard: of the rows.
        validation: of base and experts on the items that chose the settings.
    """
    if not scoreboard.tasks:
        return []
    ranked = scoreboard.best(scoreboard.merges) is not None
    scores = [score for row in scoreboard.rows for score in row.scores.values()]
    caption = (_BARS if ranked else _MEASURES) + _COLOURS
    if any(score.error is not None for score in scores):
        caption += _WHISKERS
    found = [Picture(SCORES, caption, partial(_bars, scoreboard))]
    swept = _swept(scoreboard.merges)
    if swept and ranked and validation.tasks:
        draw = partial(_curves, scoreboard.merges, swept, validation)
        found.append(Picture(SETTINGS, _CURVES, draw))
    return found


def _bars(scoreboard: Scoreboard) -> Figure:
    panels = _panels(scoreboard)
    rows = [row for row in scoreboard.rows if not row.failed]
    width = min(2.6 + 2.2 * len(panels), _WIDTH)
    height = 0.27 * len(rows) + 0.8
    figure, all_axes = new_figure(width, height, columns=len(panels))
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_bars(axes, rows, panel)
        # Names of tasks are enough: the axis points to what is better.
        is_task = panel.key in scoreboard.tasks
        axes.set_title(folded(printable(panel.key if is_task else panel.title)))
        axes.tick_params(axis="y", length=0, labelleft=panel is panels[0])
    return figure


def _panels(scoreboard: Scoreboard) -> list[Column]:
    by_key = {column.key: column for column in summary_columns(scoreboard)}
    summary = by_key[SHARE if scoreboard.direction is None else MEAN]
    tasks = [task_column(scoreboard, task) for task in scoreboard.tasks]
    has_summary = len(tasks) > 1 and scoreboard.best(scoreboard.merges)
    return ([summary] * bool(has_summary) + tasks)[:_PANELS]


def _draw_bars(axes: Axes, rows: Sequence[Row], panel: Column) -> None:
    from matplotlib import rcParams

    base: Any = next((panel.value(row) for row in rows if row.kind == BASE), None)
    ink = rcParams["text.color"]
    start = 0.0 if base is None or panel.higher_is_better is None else base
    # None becomes NaN, which is not drawn.
    values = np.array([panel.value(row) for row in rows], dtype=float)
    values[np.abs(values) > _LARGEST_DRAWN] = np.nan
    errors = np.array([panel.error(r) if panel.error else None for r in rows], float)
    grey, merged = rcParams["axes.edgecolor"], {True: _PCB, False: _OTHER}
    bars = axes.barh(
        range(len(rows)),
        values - start,
        height=0.7,
        left=start,
        color=[merged[r.method == "pcb"] if r.kind == MERGE else grey for r in rows],
        xerr=errors,
        error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": ink},
    )
    texts = [
        "" if value is None else panel.text(value) for value in map(panel.value, rows)
    ]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.axvline(start, color=ink, linewidth=0.8)
    axes.set_yticks(range(len(rows)), _titles(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    # Room for the numbers.
    axes.margins(x=0.55)
    axes.locator_params(axis="x", nbins=4)
    axes.spines["left"].set_visible(False)
    if panel.higher_is_better is False:
        axes.invert_xaxis()


def _titles(rows: Sequence[Row]) -> list[str]:
    names = [printable(row_name(row)) for row in rows]
    return [
        text if names.count(text) == 1 else f"{text}, {row.label}"
        for text, row in zip(names, rows, strict=True)
    ]


def _swept(merges: Sequence[Row]) -> list[str]:
    """The parameters to draw a panel for; the scale of `linear` is its lambda."""
    names = [n for row in merges for tried in row.tried for n in tried.swept]
    panels = dict.fromkeys("lambda" if n == SCALE else n for n in names)
    return [
        panel
        for panel in panels
        if any(len({_at(tried, panel) for tried in row.tried}) > 1 for row in merges)
    ]


def _at(tried: Tried, parameter: str) -> Any:
    scale = tried.swept.get(SCALE) if parameter == "lambda" else None
    return tried.swept.get(parameter, scale)


def _curves(
    merges: Sequence[Row], swept: Sequence[str], validation: Scoreboard
) -> Figure:
    width = min(2 + 3 * len(swept), _WIDTH)
    figure, all_axes = new_figure(width, 3.2, columns=len(swept))
    styles = _styles(merges)
    for axes, parameter in zip(all_axes, swept, strict=True):
        for row in merges:
            points = _best_by_value(row, parameter, validation)
            if len(points) < 2:
                continue
            values, heights, _ = zip(*points, strict=True)
            axes.plot(values, heights, "o", ms=3, lw=1.4, **styles[row.name])
            for value, height, chosen in points:
                if chosen:
                    axes.plot(value, height, "o", ms=8, **styles[row.name])
        axes.set_xlabel(parameter)
        axes.locator_params(axis="x", nbins=6)
        if axes is not all_axes[0]:
            axes.sharey(all_axes[0])
    for row in merges:
        if len(row.tried) > 1:
            all_axes[0].plot([], [], "o", ms=3, label=row.name, **styles[row.name])
    if validation.direction is False:
        all_axes[0].invert_yaxis()
    mean = "mean" if len(validation.tasks) > 1 else validation.tasks[0]
    all_axes[0].set_ylabel("% of own expert" if validation.direction is None else mean)
    legend(figure, all_axes[0])
    return figure


def _styles(merges: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Orange is for pcb, here as for the bars; its other scopes have broken lines."""
    lines = cycle(["-", "--", ":"])
    # C1 is too near to pcb's.
    others = cycle(f"C{i}" for i in range(12) if i not in (1, 5))
    return {
        row.name: {"color": _PCB, "linestyle": next(lines)}
        if row.method == "pcb"
        else {"color": next(others), "linestyle": "-"}
        for row in merges
    }


def _best_by_value(
    row: Row, parameter: str, validation: Scoreboard
) -> list[tuple[Any, float, bool]]:
    """Each value of one parameter, the best score with it, and whether it is chosen."""
    points: dict[Any, list[tuple[float, bool]]] = {}
    for tried in row.tried:
        value = _at(tried, parameter)
        score = validation.score(Row(MERGE, row.name, tried.scores))
        if score is None or abs(score) > _LARGEST_DRAWN:
            continue
        if isinstance(value, (int, float)):
            points.setdefault(value, []).append((score, tried.chosen))
    pick = min if validation.direction is False else max
    return [(v, *pick(points[v], key=itemgetter(0))) for v in sorted(points)]
