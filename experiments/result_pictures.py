"""Pictures of the evidence: scores along lambda, and by the number of models."""

from __future__ import annotations

import io
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.auto_lambda import losses
from experiments.cases import Found
from experiments.summary import Measured, groups, mean_curve, summarise
from mergekit_pcb.kernel.projection import target

SHOWN = ("linear", "task_arithmetic", "ties", "dare_ties", "della", "pcb", "pcb:model")


def sensitivity_picture(measured: Measured, suite: str, *, higher: bool) -> bytes:
    """Scores along lambda, a curve for each density, `auto` marked on each."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    curves = dict.fromkeys((case["method"], case["density"]) for case, _ in measured)
    ours = [density for method, density in curves if method == "pcb"]
    for method, density in curves:
        some = [
            found
            for case, found in measured
            if (case["method"], case["density"]) == (method, density)
        ]
        curve = mean_curve([found["scores"] for found in some])
        mine = method == "pcb"
        shade = (ours.index(density) + 1) / len(ours) if mine else 0
        (line,) = axes.plot(
            some[0]["lambda"],
            curve,
            "-" if mine else "--",
            color=(0.1, 0.2 + 0.5 * (1 - shade), 0.9 * shade + 0.1) if mine else None,
            label=f"pcb, density {density:g}" if mine else method,
        )
        auto = [found["auto"] for found in some if "auto" in found]
        if auto:
            at, score = (fmean(a[key] for a in auto) for key in ("lambda", "score"))
            axes.plot(at, score, "o", color=line.get_color())
    axes.set(xlabel="lambda (dots: auto)", ylabel=_label(higher), title=suite)
    axes.legend(fontsize="small")
    return _png(figure)


def target_picture(measured: Measured, suite: str, *, higher: bool) -> bytes:
    """What each p loses, a curve for each number of models; that of `auto` marked."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    by_size: dict[int, list[Found]] = {}
    for case, found in measured:
        if case["density"] >= 0.1 and "cells" not in case["tasks"]:
            by_size.setdefault(len(case["tasks"]), []).append(found)
    for n, some in sorted(by_size.items()):
        curve = mean_curve([losses(found, higher) for found in some])
        p = some[0]["p"]
        (line,) = axes.plot(p, curve, label=f"{n} models")
        auto = target(n)
        axes.plot(auto, np.interp(auto, p, curve), "o", color=line.get_color())
    unit = "points of accuracy" if higher else "millibits a byte"
    axes.set(
        xlabel="p: how much of each task vector is kept (dots: auto)",
        ylabel=f"lost against the best lambda, {unit}",
        title=f"{suite}, validation items",
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    return _png(figure)


def sizes_picture(measured: Measured, suite: str, *, higher: bool) -> bytes:
    """Untuned means by the number of models that are merged."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    points: dict[str, list[tuple[int, float, float]]] = {}
    for name, group in groups(measured, tuned=False).items():
        for line in summarise(group, higher_is_better=higher):
            if line.name in SHOWN:
                size = int(name.split()[0])
                points.setdefault(line.name, []).append(
                    (size, line.mean, line.error or 0)
                )
    for name in SHOWN:
        if name in points:
            sizes, means, errors = zip(*sorted(points[name]), strict=True)
            axes.errorbar(sizes, means, errors, label=name, capsize=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="models merged", ylabel=_label(higher), title=f"{suite}, untuned")
    axes.legend(fontsize="small")
    return _png(figure)


def _label(higher: bool) -> str:
    return "accuracy, percent" if higher else "bits per byte"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
