"""The one look of all pictures: colours, labels, and axes to draw in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

# Okabe and Ito's palette, which readers with colour-blindness can tell apart.
MODEL = "#0072B2"  # blue: means, bands and streamlines of the posterior
TRUTH = "#D55E00"  # vermilion: what is known to be true
GREEN = "#009E73"  # bluish green: rollouts in phase space, over blue streamlines
DATA = "#222222"
GUIDE = "#777777"

# for several curves of one kind; the last one is too light for thin lines on white
CYCLE = (MODEL, "#E69F00", GREEN, "#CC79A7", "#56B4E9", TRUTH)

Sharing = bool | Literal["row", "col"]

LEGEND = "sympgp-legend"

LEGEND_COLUMN = 1.1
"""Inches of a figure's width for one entry of its legend."""

LEGEND_ROW = 13.0
"""Points of a panel's height for one row of a legend."""

NOTE_CHARACTERS = 14
"""Characters of a note in one inch."""

LONGEST_UNIT = 24
"""Characters of a product of units beyond which it does not fit beside a panel."""

LONGEST_LABEL = 34
"""Characters that fit along the height of a panel of a map."""

PATHS = 8
"""Draws that a picture shows as lines, over all trajectories."""

VECTORS = 20_000
"""More points than this go into vector graphics as one image."""

UNCERTAINTY_MAP = "Oranges"
LEVEL_MAP = "Blues"
SIGNED_MAP = "PuOr"

BAND: dict[str, Any] = {"color": MODEL, "alpha": 0.25, "linewidth": 0.0}
# thin, or it covers a narrow band
MEAN: dict[str, Any] = {"color": MODEL, "linewidth": 1.1}
PATH: dict[str, Any] = {"color": GREEN, "linewidth": 0.8, "alpha": 0.7}
TRUE_LINE: dict[str, Any] = {"color": TRUTH, "linewidth": 1.3, "linestyle": (0, (4, 2))}
TRUE_POINT: dict[str, Any] = {
    "color": TRUTH,
    "marker": "x",
    "markersize": 4.0,
    "linestyle": "none",
}
SEEN: dict[str, Any] = {"color": DATA, "marker": "o", "linestyle": "none"}
UNSEEN: dict[str, Any] = SEEN | {"markerfacecolor": "white", "markeredgewidth": 1.0}
# of many data in phase space, where some lie on others
CLOUD: dict[str, Any] = SEEN | {"markersize": 1.8, "markeredgewidth": 0.0, "alpha": 0.6}
START: dict[str, Any] = {"color": GUIDE, "linestyle": ":", "linewidth": 1.3}
LIMIT: dict[str, Any] = {"color": GUIDE, "linestyle": "--", "linewidth": 0.9}
ZERO: dict[str, Any] = {"color": GUIDE, "linewidth": 0.6}


def panels(
    ax: Any,
    rows: int,
    columns: int,
    size: tuple[float, float],
    share_x: Sharing = False,
    share_y: Sharing = False,
) -> np.ndarray:
    """Axes in a (rows, columns) array: the given ones, or those of a new figure.

    Args:
        ax: None, one axes, or axes in any array or sequence of the right number.
        rows: rows of panels.
        columns: columns of panels.
        size: width and height of one panel of a new figure, in inches.
        share_x: whether the panels of a new figure share their horizontal axis; "col" for those
            above each other.
        share_y: the same of the vertical axis; "row" for those beside each other.

    Raises:
        ValueError: another number of axes than panels.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        figure_size = (columns * size[0], rows * size[1])
        _, axes = plt.subplots(
            rows,
            columns,
            figsize=figure_size,
            sharex=share_x,
            sharey=share_y,
            squeeze=False,
            layout="constrained",
        )
        return axes
    given = np.asarray(ax, dtype=object).ravel()
    if given.size != rows * columns:
        raise ValueError(f"ax: expected {rows * columns} axes, got {given.size}")
    return given.reshape(rows, columns)


def label(name: str, units: Mapping[str, str]) -> str:
    """``name [unit]``, or the name alone where the unit is not known."""
    unit = units.get(name)
    return f"{name} [{unit}]" if unit else name


def value_label(name: str, value: float, units: Mapping[str, str]) -> str:
    """``name = value unit``."""
    return f"{name} = {round(value, 12):.3g} {units.get(name, '')}".rstrip()


def rate_label(name: str, units: Mapping[str, str]) -> str:
    """``d name / dt`` with its unit, where those of the coordinate and of time are known."""
    text = f"d{name}/dt" if len(name) <= 2 else f"d({name})/dt"
    unit, time = units.get(name), units.get("time")
    return f"{text} [{_factor(unit)}/{_factor(time)}]" if unit and time else text


def energy_label(text: str, names: Sequence[str], units: Mapping[str, str]) -> str:
    """An energy with its unit: the one named, or coordinate times momentum over time.

    A product that is too long to read is left out.
    """
    unit = units.get("energy")
    parts = [units.get(name) for name in (names[0], names[len(names) // 2], "time")]
    if unit is None and all(parts):
        q, p, time = (_factor(part or "") for part in parts)
        unit = f"{q}·{p}/{time}"
        unit = unit if len(unit) <= LONGEST_UNIT else None
    return f"{text} [{unit}]" if unit else text


def two_lines(text: str) -> str:
    """The unit below the name where both do not fit beside a panel."""
    return text.replace(" [", "\n[") if len(text) > LONGEST_LABEL else text


def _factor(unit: str) -> str:
    return f"({unit})" if any(sign in unit for sign in "/ *·") else unit


def numbers(values: Tensor) -> np.ndarray:
    """A tensor as an array to draw."""
    return values.detach().to("cpu", torch.float64).numpy()


def marker_size(count: int) -> float:
    """Size of a datum's marker: smaller where there are many."""
    return 3.5 if count <= 100 else 2.0


def colours(count: int) -> list[Any]:
    """Colours of several curves of one kind."""
    if count <= len(CYCLE):
        return list(CYCLE[:count])
    import matplotlib

    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, count)))


def some_paths(num_draws: int, num_trajectories: int) -> tuple[int, int]:
    """How many draws of how many trajectories to draw as lines."""
    trajectories = min(num_trajectories, PATHS)
    return min(num_draws, PATHS // trajectories), trajectories


def paths_label(shown: int, total: int) -> str:
    """What the legend says of these lines."""
    return "rollouts" if shown == total else f"{shown} of {total} rollouts"


def tidy(ax: Axes) -> None:
    """Take away what carries no information."""
    ax.spines[["top", "right"]].set_visible(False)


def heading(ax: Axes, text: str, own_figure: bool) -> None:
    """What one panel shows: above it, or inside where the legend may be above it."""
    if own_figure:
        ax.set_title(text, fontsize="small")
    else:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1.0}
        ax.text(0.02, 0.97, text, transform=ax.transAxes, fontsize="small", va="top", bbox=box)


def label_grid(
    axes: np.ndarray, below: Sequence[str], beside: Sequence[str], own_figure: bool
) -> None:
    """Labels of panels in rows and columns that share their axes, once in their own figure."""
    for row, line in enumerate(axes):
        for column, panel in enumerate(line):
            if row == len(axes) - 1 or not own_figure:
                panel.set_xlabel(below[column])
            if column == 0 or not own_figure:
                panel.set_ylabel(beside[row])


def legend(axes: np.ndarray, own_figure: bool, note: str = "") -> None:
    """One legend for all panels, above them, where it covers nothing.

    Panels that are drawn into again keep the legend in its place, each entry once.

    Args:
        axes: the panels.
        own_figure: whether nobody else has panels in their figure.
        note: a line above the legend: what holds for the whole picture.
    """
    figure = axes.flat[0].figure
    if own_figure:
        figure.align_ylabels()
    once: dict[str, Any] = {}
    for panel in axes.flat:
        handles, labels = panel.get_legend_handles_labels()
        # of one panel the last: what was drawn into it latest
        own = dict(zip(labels, handles, strict=True))
        once |= {text: handle for text, handle in own.items() if text not in once}
    look: dict[str, Any] = {"frameon": False, "fontsize": "small", "columnspacing": 1.2}
    earlier = [legend for legend in figure.legends if legend.get_gid() == LEGEND]
    for old in earlier:
        note = note or old.get_title().get_text()
        old.remove()
    handles, texts = list(once.values()), list(once)
    if own_figure or earlier:
        look |= {"title": note or None, "title_fontsize": "small", "alignment": "left"}
        look["ncols"] = max(1, round(figure.get_size_inches()[0] / LEGEND_COLUMN))
        above = figure.legend(handles, texts, loc="outside upper left", **look)
        above.set_gid(LEGEND)
    else:
        _legend_over(axes.flat[0], handles, texts, note, look)


def _legend_over(
    panel: Axes, handles: list[Any], texts: list[str], note: str, look: dict[str, Any]
) -> None:
    """A legend above one panel of the caller's, as wide as the panel, with the note above it.

    Layouts leave room for titles but not for their width, so the title of the panel, which holds
    the note, makes room for the legend.
    """
    inches = panel.get_window_extent().width / panel.figure.dpi
    columns = max(1, int(inches / LEGEND_COLUMN))
    look |= {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
    panel.legend(handles, texts, ncols=columns, **look).set_in_layout(False)
    lines = wrap(note or panel.get_title("left"), int(inches * NOTE_CHARACTERS)) or [" "]
    rows = -(-len(texts) // columns)
    pad = 4.0 + LEGEND_ROW * rows
    panel.set_title("\n".join(lines), loc="left", fontsize="small", pad=pad)
