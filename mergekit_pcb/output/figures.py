"""What all pictures share; matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

_DPI = 150
_SHOWN = 110
# Colours that colour-blind readers can tell apart as well (Okabe and Ito), and then
# some; more models begin again. Figures name them C0, C1 and so on, as matplotlib does.
_COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"),
    *("#B3A300", "#7F5AA6", "#8C564B", "#4D8C8C", "#F28E8C", "#7FB069"),
)
# Characters and lines of text in an inch.
_CHARACTERS, _LINES = 13, 5.5
# Width in inches, and height in percent, of bars with a number in them.
_LABELLED, _TALL = 0.22, 8
# Numbers of layers in an inch of axis.
_NUMBERS = 2.8


def _theme(background: str, text: str, grid: str, muted: str) -> Any:
    """Settings of matplotlib, with these colours for all that is not data."""
    texts = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(texts, text),
        "figure.facecolor": background,
        "axes.facecolor": background,
        "axes.edgecolor": muted,
        "grid.color": grid,
        "axes.prop_cycle": f"cycler(color={_COLOURS})",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        **dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 9),
        "hatch.linewidth": 0.6,
        "legend.frameon": False,
        # A dollar sign in a name is a dollar sign.
        "text.parse_math": False,
    }


LIGHT = _theme(background="#ffffff", text="#1f2328", grid="#d8dee4", muted="#b4bcc4")
DARK = _theme(background="#161b22", text="#e6edf3", grid="#30363d", muted="#59636e")


class Picture(NamedTuple):
    """A figure yet to be drawn.

    Attributes:
        name: of its file, without the ending.
        caption: how to read it.
        draw: draws it with matplotlib's settings of the moment.
        setting: which setting it is about, if it is about one.
    """

    name: str
    caption: str
    draw: Callable[[], Figure]
    setting: int | None = None

    def png(self, *, dark: bool = False) -> bytes:
        """The picture as a PNG file, for light or dark pages."""
        return _png(self.draw, dark)


@lru_cache(maxsize=64)
def _png(draw: Callable[[], Figure], dark: bool) -> bytes:
    # A picture goes into a file of its own and into a page.
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(DARK if dark else LIGHT):
        draw().savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def shown_width(png: bytes) -> int:
    """How wide a picture should be on a page, in its pixels, which are larger."""
    return int.from_bytes(png[16:20], "big") * _SHOWN // _DPI


def why_no_figures() -> str:
    """What is missing to draw with, or nothing if nothing is."""
    try:
        import matplotlib.figure  # noqa: F401 - whether it can be imported
    except ImportError:
        return (
            "the pictures of --out need matplotlib: pip install 'mergekit-pcb[report]'"
        )
    return ""


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of inches, and its axes row by row; nothing of pyplot's is touched."""
    from matplotlib.figure import Figure

    figure = Figure((width, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def label_bars(axes: Axes, bars: BarContainer, inches: float) -> None:
    """Write whole numbers into stacked bars of percent, where there is room.

    Args:
        axes: from 0 to 100.
        bars: of one model.
        inches: the width of a bar.
    """
    from matplotlib.colors import to_rgb

    if inches < _LABELLED:
        return
    values = [bar.get_height() for bar in bars]
    labels = [f"{value:.0f}" if value >= _TALL else "" for value in values]
    red, green, blue = to_rgb(bars[0].get_facecolor())
    bright = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
    ink = "#1f2328" if bright else "#ffffff"
    axes.bar_label(bars, labels, label_type="center", color=ink, fontsize=8)


def heat_map(axes: Axes, values: Sequence[Sequence[float]], **options: Any) -> Any:
    """Values as colours; where there is none, the background is hatched."""
    from matplotlib import rcParams

    image = axes.imshow(values, **options)
    axes.patch.set(edgecolor=rcParams["grid.color"], hatch="/////")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # Ticks elsewhere would widen the axes.
    axes.set_xlim(-0.5, len(values[0]) - 0.5)
    return image


def colorbar(
    figure: Figure, image: Any, axes: Axes | Sequence[Axes], label: str
) -> None:
    """Say which colour is which value."""
    bar = figure.colorbar(image, ax=axes, label=label, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=3)


def legend(figure: Figure, axes: Axes) -> None:
    """Name the colours below the axes, in as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    columns = max(int(width * _CHARACTERS / (max(map(len, names)) + 8)), 1)
    figure.set_size_inches(width, height - (-len(names) // columns) / _LINES)
    figure.legend(handles, names, loc="outside lower left", ncols=columns)


def spans(labels: Sequence[str]) -> list[tuple[int, int]]:
    """First place on an axis and first place behind it, for each layer.

    Stacks are set apart, and what is no layer is as wide as it takes to be seen.
    """
    wide = len(labels) // 25 + 1
    found: list[tuple[int, int]] = []
    before = None
    for label in labels:
        stack = _stack_of(label)
        start = found[-1][1] + (0 if stack == before else wide) if found else 0
        found.append((start, start + (wide if stack == label else 1)))
        before = stack
    return found


def _stack_of(label: str) -> str:
    """What stands before the number of a layer, or the whole label without one."""
    stack, _, number = label.rpartition(" ")
    return stack if number.isdecimal() else label


def layer_axis(axes: Axes, labels: Sequence[str], inches: float) -> None:
    """Label the horizontal axis with as many layers as are readable."""
    where = spans(labels)
    room = inches * _NUMBERS
    every = next(n for n in (1, 2, 4, 5, 8, 10, 20, 50, 100) if len(labels) / n <= room)
    numbers: dict[float, str] = {}
    stacks: dict[float, str] = {}
    for stack, members in groupby(
        zip(where, labels, strict=True), lambda member: _stack_of(member[1])
    ):
        group = list(members)
        end = group[-1][0][1]
        middle = (group[0][0][0] + end - 1) / 2
        if stack == group[0][1]:
            numbers[middle] = stack
            continue
        stacks[middle] = f"{stack} layer".strip()
        for (start, _), label in group:
            number = label.rpartition(" ")[2]
            # The last ones would run into the name of what comes next.
            if int(number) % every == 0 and start + every / 2 <= end:
                numbers[start] = number
    axes.set_xticks(list(numbers), list(numbers.values()))
    axes.set_xticks(list(stacks), list(stacks.values()), minor=True)
    axes.xaxis.remove_overlapping_locs = False
    axes.tick_params(axis="x", which="both", length=0)
    axes.tick_params(axis="x", which="minor", pad=18)
