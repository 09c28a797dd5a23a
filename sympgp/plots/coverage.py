"""A picture of how often bands hold what they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sympgp.plots import style
from sympgp.plots.counts import TOLERANCE, Scored, count_inside, tolerance_band
from sympgp.rollouts import Rollouts
from sympgp.trajectories import ArrayLike, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

LEVELS = tuple(k / 20 for k in range(1, 20))


def calibration(
    rollouts: Rollouts | Sequence[Scored],
    truth: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    kind: str = "latent",
    levels: ArrayLike | None = None,
    per_channel: bool = False,
    include_start: bool = False,
) -> Axes:
    """Observed coverage of the bands against the probability they are meant to hold.

    The curve is :func:`sympgp.metrics.coverage` at every level. On the diagonal bands are honest,
    below it too narrow, above it too wide.

    The band around the curve holds 90% of the curves of resampled data (bootstrap). What is
    resampled has to be independent, which times and channels of one trajectory are not: whole
    trajectories, or the parts of a list, since the trajectories of one part share a posterior.
    With fewer than five there is no band. It tells how far the curve may be from that of
    endless data of the same kind; for trajectories of one fit, of the same fit.

    Args:
        rollouts: draws of N trajectories, or a list of ``(rollouts, truth)``, such as several
            fits with the truth of each, or ``list(zip(posterior.fitted(), data.states))``; all
            their entries are counted alike.
        truth: (N, T, 2n) at the times of the rollouts, NaN where unknown; with a list of pairs
            it is in there.
        ax: axes to draw in; None for a new figure.
        kind: "latent" for a truth without noise, "predictive" for observations.
        levels: probabilities in (0, 1); by default 0.05, 0.1, .. 0.95.
        per_channel: a curve for each coordinate in place of one of all; without band.
        include_start: count the first time too, see :func:`sympgp.metrics.coverage`.

    Raises:
        ValueError: shapes or coordinates that do not fit together; a level outside (0, 1);
            nothing to count; "predictive" where the noise is not known.

    Example:
        >>> import torch
        >>> samples = torch.randn(99, 20, 5, 2, generator=torch.Generator().manual_seed(0))
        >>> new = torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(1))
        >>> rollouts = Rollouts(samples, torch.arange(5.0), torch.zeros(99, 20, dtype=torch.bool))
        >>> ax = calibration(rollouts, new)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('probability of the latent band', 'share of the truth inside')
    """
    pairs = _pairs(rollouts, truth)
    grid = np.sort(style.numbers(as_tensor(LEVELS if levels is None else levels, "levels")))
    if grid.ndim != 1 or not len(grid) or not ((grid > 0) & (grid < 1)).all():
        raise ValueError(f"levels: expected probabilities in (0, 1), got {levels!r}")
    inside, counts = count_inside(pairs, grid, kind, include_start)
    axes = style.panels(ax, 1, 1, (4.6, 4.9))
    panel = axes[0, 0]
    panel.plot([0, 1], [0, 1], label="ideal", **style.LIMIT)
    if per_channel:
        _draw_channels(panel, grid, inside.sum(0), counts.sum(0), pairs[0][0].names)
    else:
        parts = "trajectories" if len(pairs) == 1 else "parts"
        _draw_pooled(panel, grid, inside.sum(-1), counts.sum(-1), parts)
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panel.set_xlabel(f"probability of the {kind} band")
    panel.set_ylabel("share of the truth inside")
    look: dict[str, Any] = {"fontsize": "small", "color": style.GUIDE, "style": "italic"}
    panel.text(0.04, 0.95, "bands too wide", va="top", **look)
    panel.text(0.96, 0.05, "bands too narrow", ha="right", **look)
    style.tidy(panel)
    style.legend(axes, own_figure=ax is None)
    return panel


def _pairs(rollouts: Rollouts | Sequence[Scored], truth: ArrayLike | None) -> list[Scored]:
    if isinstance(rollouts, Rollouts):
        if truth is None:
            raise ValueError("truth: expected states at the times of the rollouts, got None")
        return [(rollouts, truth)]
    if truth is not None or not len(rollouts):
        raise ValueError(
            "rollouts: expected rollouts and their truth, or a list of (rollouts, truth) alone"
        )
    return list(rollouts)


def _draw_pooled(
    panel: Axes, levels: np.ndarray, inside: np.ndarray, counts: np.ndarray, parts: str
) -> None:
    """One curve of all entries, in the band of resampled parts."""
    band = tolerance_band(inside, counts)
    if band is not None:
        text = f"{TOLERANCE:.0%} of resampled {parts}"
        panel.fill_between(levels, *band, label=text, **style.BAND)
    share = inside.sum(0) / counts.sum()
    panel.plot(levels, share, label="observed", marker="o", markersize=3, **style.MEAN)


def _draw_channels(
    panel: Axes, levels: np.ndarray, inside: np.ndarray, counts: np.ndarray, names: Sequence[str]
) -> None:
    """A curve for each coordinate: a colour for each degree of freedom, momenta dashed."""
    num_dof = len(names) // 2
    colours = style.colours(num_dof)
    for d, name in enumerate(names):
        if not counts[d]:
            continue
        look = {"color": colours[d % num_dof], "linestyle": "-" if d < num_dof else (0, (4, 2))}
        panel.plot(levels, inside[:, d] / counts[d], label=name, linewidth=1.1, **look)
