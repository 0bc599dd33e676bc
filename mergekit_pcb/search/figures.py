"""The picture of a search: the score of each candidate, and the best so far."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergekit_pcb.output.figures import Picture, legend, new_figure
from mergekit_pcb.search.outcome import Tried
from mergekit_pcb.search.report import Report, method_of
from mergekit_pcb.search.space import PCB, TASK_ARITHMETIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Names of the pictures that there may be.
NAMES = (COURSE,) = ("course",)
_CAPTION = (
    "Score of each candidate in the order of the search, on the items that choose; "
    "{better} is better. Line: the best so far. Ring: what was found. Hollow: other "
    "weights."
)
_ABOVE = " Triangles: candidates that are worse than the picture reaches."
# As in the pictures of a comparison; other methods take the colours that are left.
_COLOURS = {PCB: "C5", TASK_ARITHMETIC: "C0"}
_OTHERS = ("C2", "C3", "C4", "C6", "C7", "C8", "C9")
# How far the axis goes beyond the median candidate, over its distance from the best.
_REACH = 2.5


def pictures(report: Report) -> list[Picture]:
    """All pictures that there is something to show on."""
    scored = [t for t in report.outcome.tried if math.isfinite(t.loss)]
    if len(scored) < 2:
        return []
    better = "lower" if _lower_is_better(scored[0]) else "higher"
    caption = _CAPTION.format(better=better)
    if any(t.loss > _worst_shown(scored) for t in scored):
        caption += _ABOVE
    return [Picture(COURSE, caption, partial(_course, report))]


def _lower_is_better(tried: Tried) -> bool:
    return next(iter(tried.scored.scores.values())).higher_is_better is False


def _worst_shown(scored: Sequence[Tried]) -> float:
    """The largest loss on the axis: a few bad candidates must not hide the others."""
    losses = sorted(t.loss for t in scored)
    # Not of those with other weights, which are many and all near the best.
    middle = statistics.median([t.loss for t in scored if not t.candidate.factors])
    reach = losses[0] + _REACH * (middle - losses[0])
    return max(loss for loss in losses if loss <= max(reach, losses[1]))


def _course(report: Report) -> Figure:
    outcome = report.outcome
    scored = [
        (number, t)
        for number, t in enumerate(outcome.tried, start=1)
        if math.isfinite(t.loss)
    ]
    worst = _worst_shown([t for _, t in scored])
    figure, (axes,) = new_figure(7.4, 3.6)
    sign = 1 if _lower_is_better(scored[0][1]) else -1
    best = list(itertools.accumulate((t.loss for _, t in scored), min))
    numbers = [number for number, _ in scored]
    heights = [sign * min(loss, worst) for loss in best]
    axes.step(numbers, heights, where="post", color="C1", lw=1.4, label="best so far")
    colours = _colours([t for _, t in scored])
    for method, colour in colours.items():
        own = [(n, t) for n, t in scored if method_of(t.candidate) == method]
        _draw(axes, own, worst, sign, method, colour)
    found = next(n for n, t in scored if t.candidate == outcome.best.candidate)
    height = sign * outcome.best.loss
    axes.plot(
        found,
        height,
        "o",
        ms=11,
        mfc="none",
        mec="C1",
        mew=1.6,
        ls="none",
        label="found",
    )
    axes.set_xlabel("candidate")
    metrics = {s.metric for s in outcome.best.scored.scores.values()}
    axes.set_ylabel(metrics.pop() if len(metrics) == 1 else "mean score")
    axes.grid(axis="y", lw=0.6)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", integer=True)
    legend(figure, axes)
    return figure


def _colours(scored: Sequence[Tried]) -> dict[str, str]:
    methods = dict.fromkeys(method_of(t.candidate) for t in scored)
    others = itertools.cycle(_OTHERS)
    return {method: _COLOURS.get(method) or next(others) for method in methods}


def _draw(
    axes: Axes,
    own: Sequence[tuple[int, Tried]],
    worst: float,
    sign: int,
    method: str,
    colour: str,
) -> None:
    """The candidates of one method: dots, rings for other weights, and triangles."""
    kinds = {
        "full": [(n, t) for n, t in own if t.loss <= worst and not t.candidate.factors],
        "hollow": [(n, t) for n, t in own if t.loss <= worst and t.candidate.factors],
        "beyond": [(n, t) for n, t in own if t.loss > worst],
    }
    label: str | None = method
    for kind, members in kinds.items():
        if members:
            axes.plot(
                [n for n, _ in members],
                [sign * min(t.loss, worst) for _, t in members],
                # To the outside of the picture.
                {"beyond": "^" if sign > 0 else "v"}.get(kind, "o"),
                ms=4.5,
                color=colour,
                mfc="none" if kind == "hollow" else colour,
                ls="none",
                label=label,
            )
            label = None
