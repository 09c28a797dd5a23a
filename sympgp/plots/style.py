"""The one look of all pictures: colours, labels, and axes to draw in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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

LEGEND = "sympgp-legend"

LONGEST_UNIT = 24
"""Characters of a product of units beyond which it does not fit beside a panel."""

UNCERTAINTY_MAP = "Oranges"
LEVEL_MAP = "cividis"
SIGNED_MAP = "PuOr"

BAND: dict[str, Any] = {"color": MODEL, "alpha": 0.25, "linewidth": 0.0}
# thin, or it covers a narrow band
MEAN: dict[str, Any] = {"color": MODEL, "linewidth": 1.1}
PATH: dict[str, Any] = {"color": GREEN, "linewidth": 0.8, "alpha": 0.7}
TRUE_LINE: dict[str, Any] = {"color": TRUTH, "linewidth": 1.3, "linestyle": (0, (4, 2))}
SEEN: dict[str, Any] = {"color": DATA, "marker": "o", "linestyle": "none"}
UNSEEN: dict[str, Any] = SEEN | {"markerfacecolor": "white", "markeredgewidth": 1.0}
START: dict[str, Any] = {"color": GUIDE, "linestyle": ":", "linewidth": 1.3}


def panels(
    ax: Any, rows: int, columns: int, size: tuple[float, float], share_x: bool = False
) -> np.ndarray:
    """Axes in a (rows, columns) array: the given ones, or those of a new figure.

    Args:
        ax: None, one axes, or axes in any array or sequence of the right number.
        rows: rows of panels.
        columns: columns of panels.
        size: width and height of one panel of a new figure, in inches.
        share_x: whether the panels of a new figure share their horizontal axis.

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


def _factor(unit: str) -> str:
    return f"({unit})" if any(sign in unit for sign in "/ *·") else unit


def numbers(values: Tensor) -> np.ndarray:
    """A tensor as an array to draw."""
    return values.detach().to("cpu", torch.float64).numpy()


def marker_size(count: int) -> float:
    """Size of a datum's marker: smaller where there are many."""
    return 3.5 if count <= 100 else 2.0


def tidy(ax: Axes) -> None:
    """Take away what carries no information."""
    ax.spines[["top", "right"]].set_visible(False)


def legend(axes: np.ndarray, own_figure: bool) -> None:
    """One legend for all panels, above them, where it covers nothing.

    Panels that are drawn into again keep the legend in its place, each entry once.
    """
    first = axes.flat[0]
    handles, labels = first.get_legend_handles_labels()
    once = dict(zip(reversed(labels), reversed(handles), strict=True))
    labels = [text for i, text in enumerate(labels) if text not in labels[:i]]
    handles = [once[text] for text in labels]
    look: dict[str, Any] = {"frameon": False, "fontsize": "small", "columnspacing": 1.2}
    earlier = [legend for legend in first.figure.legends if legend.get_gid() == LEGEND]
    for old in earlier:
        old.remove()
    if own_figure or earlier:
        above = first.figure.legend(handles, labels, loc="outside upper left", ncols=6, **look)
        above.set_gid(LEGEND)
    else:
        look |= {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        first.legend(handles, labels, ncols=3, **look)
