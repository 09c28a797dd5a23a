"""Filled contours of a quantity over a plane, and what is drawn on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sympgp.plots import style
from sympgp.plots.plane import Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

Extend = Literal["neither", "min", "max", "both"]


def shade_levels(
    panel: Axes, plane: Plane, values: np.ndarray, levels: np.ndarray, colours: str, text: str
) -> None:
    """Filled contours, their colours in equal steps from level to level."""
    import matplotlib
    from matplotlib.colors import BoundaryNorm, ListedColormap

    # the darkest shades would hide lines and data
    scale = matplotlib.colormaps[colours]
    if colours != style.SIGNED_MAP:
        scale = ListedColormap(scale(np.linspace(0.0, 0.75, 256)))
    below, above = values.min() < levels[0], values.max() > levels[-1]
    extend: Extend = (
        "both" if below and above else "min" if below else "max" if above else "neither"
    )
    norm = BoundaryNorm(levels, scale.N, extend=extend)
    shade = panel.contourf(plane.q, plane.p, values, levels, cmap=scale, norm=norm, extend=extend)
    # of many levels every second one, zero among them
    ticks = levels if len(levels) < 12 else levels[np.abs(levels).argmin() % 2 :: 2]
    bar = panel.figure.colorbar(shade, ax=panel, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.6g}" for tick in bar.get_ticks()])
    bar.set_label(style.two_lines(text))
    mark_far(panel, plane)


def draw_lines(panel: Axes, plane: Plane, values: np.ndarray, levels: np.ndarray) -> None:
    """Lines of equal value with the values written on them."""
    from matplotlib.patheffects import AbstractPathEffect, withStroke

    inside = levels[(levels > values.min()) & (levels < values.max())]
    if not len(inside):
        return
    look: dict[str, Any] = {"colors": style.DATA, "linewidths": 0.6, "linestyles": "solid"}
    lines = panel.contour(plane.q, plane.p, values, inside, **look)
    halo: list[AbstractPathEffect] = [withStroke(linewidth=2.0, foreground="white")]
    for text in panel.clabel(lines, inline=False, fontsize=7, fmt="%.6g", zorder=3.0):
        text.set_path_effects(halo)
        text.set_color(style.DATA)
        x, y = text.get_position()
        inner = _is_inner(x, plane.q) and _is_inner(y, plane.p)
        text.set_visible(inner)


def _is_inner(value: float, axis: np.ndarray) -> bool:
    """Whether a text is so far from the border that it is not cut off."""
    return bool(0.05 < (value - axis[0]) / (axis[-1] - axis[0]) < 0.95)


def mark_far(panel: Axes, plane: Plane) -> None:
    """Hatch where no data are near."""
    if plane.far is None or not plane.far.any():
        return
    import matplotlib

    hatch = "////"
    with matplotlib.rc_context({"hatch.color": style.GUIDE, "hatch.linewidth": 0.4}):
        far = plane.far.astype(float)
        panel.contourf(plane.q, plane.p, far, [0.5, 1.5], colors="none", hatches=[hatch])
        # an empty polygon, for the legend only
        panel.fill([], [], facecolor="white", hatch=hatch, linewidth=0, label="far from data")
