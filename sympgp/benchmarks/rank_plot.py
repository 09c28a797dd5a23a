"""Histograms of ranks, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from sympgp.benchmarks.ranks import Ranks
from sympgp.plots import style

COLUMNS = 4
LEVEL = 0.99
"""Probability that the height of a bar of uniform ranks is within its limits."""


def plot_ranks(ranks: Sequence[Ranks], ax: Any = None) -> np.ndarray:
    """A histogram for each quantity, with the limits that bars of uniform ranks keep to.

    Bars that rise at both ends mean posterior draws too close to one another, in the middle too
    far apart, at one end a bias. A bar keeps to them with 99% probability.

    Args:
        ranks: of the quantities.
        ax: as many axes; None for a new figure.

    Returns:
        Axes (rows, columns).

    Raises:
        ValueError: no ranks; another number of axes.

    Example:
        >>> axes = plot_ranks([Ranks("friction", tuple(range(100)), num_draws=99)])
        >>> axes[0, 0].get_title(loc="left")
        'friction'
    """
    if not ranks:
        raise ValueError("ranks: expected those of one quantity at least, got none")
    columns = min(COLUMNS, len(ranks))
    rows = math.ceil(len(ranks) / columns)
    if ax is None:
        axes = style.panels(None, rows, columns, (2.4, 1.7), share_x=True)
    else:
        axes = style.panels(ax, 1, len(ranks), (2.4, 1.7))
    for panel, own in zip(axes.flat, ranks, strict=False):
        _draw(panel, own)
    for panel in axes.flat[len(ranks) :]:
        panel.set_visible(False)
    for index, panel in enumerate(axes.flat[: len(ranks)]):
        if index + columns >= len(ranks):
            panel.set_xlabel("rank")
            panel.tick_params(labelbottom=True)
        if index % columns == 0:
            panel.set_ylabel("simulations")
    style.legend(axes, ax is None)
    return axes


def _draw(panel: Any, ranks: Ranks) -> None:
    counts = ranks.histogram()
    width = (ranks.num_draws + 1) / len(counts)
    tail = 0.5 * (1 - LEVEL)
    uniform = stats.binom(len(ranks.values), 1 / len(counts))
    lower, upper = uniform.ppf(tail), uniform.ppf(1 - tail)
    edges = np.arange(len(counts)) * width
    look: dict[str, Any] = {"color": style.MODEL, "alpha": 0.6, "edgecolor": "white"}
    panel.bar(edges, counts, width, align="edge", linewidth=0.4, label="ranks", **look)
    panel.axhline(len(ranks.values) / len(counts), **style.ZERO)
    for limit in (lower, upper):
        panel.axhline(limit, label=f"{LEVEL:.0%} of uniform ranks", **style.LIMIT)
    panel.set_xlim(0, ranks.num_draws + 1)
    panel.set_ylim(0, 1.15 * max(counts.max(), upper))
    panel.set_title(ranks.name, loc="left", fontsize="small")
    panel.set_title(f"p = {ranks.p_value():.2g}", loc="right", fontsize="small")
    style.tidy(panel)
