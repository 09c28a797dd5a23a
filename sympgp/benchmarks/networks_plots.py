"""Pictures of several fits side by side: phase portraits, bands, energy drift, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sympgp.benchmarks.networks_prediction import Prediction
from sympgp.plots import style
from sympgp.plots.counts import count_inside
from sympgp.plots.coverage import LEVELS
from sympgp.plots.fields import RELATIVE_LEVELS
from sympgp.plots.plane import Plane, Region, make_plane
from sympgp.rollouts.statistics import kept_quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

COLUMNS = 4
GRID = 31
"""Points along each axis of a phase portrait."""
TAILS = (0.05, 0.5, 0.95)
LOWEST = 1e-6
"""Relative error of the energy below which nothing is drawn."""
FURTHEST = 1e6
DASHES = ("-", (0, (4, 2)), (0, (1, 1)))

Found = Mapping[str, Prediction]
"""Fits by the names to show."""


def portraits(
    found: Found, trajectory: int | None = None, region: Region | None = None, ax: Any = None
) -> np.ndarray:
    """Streamlines of each mean field over its uncertainty, with draws of one trajectory.

    The shade is the standard deviation of the field relative to its typical size, on one scale for
    all panels; the dashed line is the true path.

    Args:
        found: fits of one system, by name.
        trajectory: of the rollouts to draw; the one of the widest motion when None.
        region: ``((q_min, q_max), (p_min, p_max))``; around the data of the first when None.
        ax: as many axes; None for a new figure.

    Returns:
        Axes (rows, columns); those left over are hidden.

    Raises:
        ValueError: no fit; another number of axes.
    """
    axes = _grid(found, ax, (3.3, 3.0), share=True)
    shade, trajectory = None, _widest(found) if trajectory is None else trajectory
    for panel, (name, one) in zip(axes.flat, found.items(), strict=False):
        plane = make_plane(one.posterior, None, 0, None, None, region, None, GRID)
        region = (plane.q[0], plane.q[-1]), (plane.p[0], plane.p[-1])
        shade = _draw_field(panel, plane, one)
        _draw_paths(panel, one, trajectory)
        panel.set(xlim=region[0], ylim=region[1])
        panel.set_title(name, fontsize="small")
    shown = axes.flat[: len(found)]
    _label(axes, len(found), *_names(found))
    bar = axes.flat[0].figure.colorbar(shade, ax=list(shown), shrink=0.7)
    bar.set_label("std of the field / its typical size")
    style.legend(axes, ax is None)
    return axes


def forecasts(
    found: Found, trajectory: int | None = None, coordinate: int = 0, ax: Any = None
) -> np.ndarray:
    """Median and 90% band of one coordinate over time, a panel for each fit.

    Args:
        found: fits of one system, by name.
        trajectory: of the rollouts to draw; the one of the widest motion when None.
        coordinate: its position in a state.
        ax: as many axes; None for a new figure.

    Returns:
        Axes (rows, columns); those left over are hidden.

    Raises:
        ValueError: no fit; another number of axes.
    """
    axes = _grid(found, ax, (3.3, 2.1), share=True)
    trajectory = _widest(found) if trajectory is None else trajectory
    truths = [style.numbers(one.truth[trajectory, :, coordinate]) for one in found.values()]
    low, high = min(map(np.nanmin, truths)), max(map(np.nanmax, truths))
    margin = 0.35 * (high - low)
    for panel, truth, (name, one) in zip(axes.flat, truths, found.items(), strict=False):
        times = style.numbers(one.rollouts.times)
        kept = one.rollouts.diverged[:, trajectory : trajectory + 1]
        paths = one.rollouts.samples[:, trajectory : trajectory + 1, :, coordinate : coordinate + 1]
        noise = one.rollouts.noise_std if one.kind == "predictive" else None
        noise = None if noise is None else noise[:, coordinate : coordinate + 1]
        ends = kept_quantiles(paths, kept, TAILS, noise)
        lower, median, upper = (style.numbers(end[0, :, 0]) for end in ends)
        panel.fill_between(times, lower, upper, label="90% band", **style.BAND)
        panel.plot(times, median, label="median", **style.MEAN)
        look = style.TRUE_LINE if one.kind == "latent" else style.SEEN | {"markersize": 1.5}
        panel.plot(times, truth, label="truth" if one.kind == "latent" else "measured", **look)
        panel.set_title(name, fontsize="small")
        panel.set_ylim(low - margin, high + margin)
        _few_times(panel)
        style.tidy(panel)
    first = next(iter(found.values())).rollouts
    _label(axes, len(found), style.label("time", first.units), first.names[coordinate])
    style.legend(axes, ax is None)
    return axes


def energy_drift(found: Found, ax: Any = None) -> np.ndarray:
    """How far the true energy along rollouts is from that of the true paths, over time.

    Median and 5% to 95% range over draws and trajectories of ``|H(x) - H(truth)|``, over the mean
    energy at the start, one panel for each fit. Above one an energy has nothing to do with the
    system's; draws that diverged count as infinitely far off from then on.

    Args:
        found: fits of one system whose true Hamiltonian is known, by name.
        ax: as many axes; None for a new figure.

    Returns:
        Axes (rows, columns); those left over are hidden.

    Raises:
        ValueError: no fit; another number of axes; no Hamiltonian.
    """
    axes = _grid(found, ax, (3.3, 2.5), share=True)
    for panel, (name, one) in zip(axes.flat, found.items(), strict=False):
        if one.hamiltonian is None:
            raise ValueError("found: expected fits of a system whose Hamiltonian is known")
        times = style.numbers(one.rollouts.times)
        right = one.hamiltonian(one.truth)
        off = (one.hamiltonian(one.rollouts.samples) - right).abs() / right[:, 0].mean()
        off = off.nan_to_num(math.inf, posinf=math.inf).flatten(0, 1)
        level = torch.tensor(TAILS).to(off)
        ranges = torch.quantile(off, level, dim=0, interpolation="higher")
        lower, median, upper = style.numbers(ranges).clip(LOWEST, FURTHEST)
        panel.fill_between(times, lower, upper, label="5% to 95% of draws", **style.BAND)
        panel.plot(times, median, label="median", **style.MEAN)
        panel.axhline(1.0, label="the energy itself", **style.LIMIT)
        gone = float(one.rollouts.diverged.double().mean())
        text = f"{name}: {gone:.0%} diverged" if gone else name
        panel.set_title(text, fontsize="small")
        panel.set_yscale("log")
        _few_times(panel)
        style.tidy(panel)
    first = next(iter(found.values())).rollouts
    _label(axes, len(found), style.label("time", first.units), "relative error of the energy")
    style.legend(axes, ax is None)
    return axes


def calibrations(found: Found, ax: Axes | None = None) -> Axes:
    """Observed coverage of the bands of each fit against the probability they are meant to hold.

    On the diagonal bands are honest, below it too narrow, above it too wide.

    Args:
        found: fits, by name.
        ax: axes to draw in; None for a new figure.

    Raises:
        ValueError: no fit.
    """
    _grid_size(found)
    panel = style.panels(ax, 1, 1, (6.8, 4.6))[0, 0]
    panel.plot([0, 1], [0, 1], label="ideal", **style.LIMIT)
    levels, count = np.array(LEVELS), len(style.CYCLE)
    for k, (name, one) in enumerate(found.items()):
        # the start of a forecast is not known exactly
        start = one.kind == "predictive"
        inside, counts = count_inside([(one.rollouts, one.truth)], levels, one.kind, start)
        share = inside.sum((0, 2)) / counts.sum()
        look = {"color": style.CYCLE[k % count], "linestyle": DASHES[k // count % len(DASHES)]}
        panel.plot(levels, share, label=name, linewidth=1.4, **look)
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panel.set_xlabel("probability of the band")
    panel.set_ylabel("share of the truth inside")
    look = {"fontsize": "small", "color": style.GUIDE, "style": "italic"}
    panel.text(0.04, 0.95, "bands too wide", va="top", **look)
    panel.text(0.96, 0.05, "bands too narrow", ha="right", **look)
    style.tidy(panel)
    # names are long: beside the curves, in their order
    panel.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize="small")
    return panel


def _few_times(panel: Axes) -> None:
    """Times along the panel, so few that those of neighbours keep apart."""
    from matplotlib.ticker import MaxNLocator

    panel.margins(x=0.01)
    panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _widest(found: Found) -> int:
    """The trajectory whose true path moves most."""
    truth = next(iter(found.values()), None)
    if truth is None:
        return 0
    ends = truth.truth.nan_to_num()
    return int((ends.amax(1) - ends.amin(1))[:, 0].argmax())


def _grid_size(found: Found) -> tuple[int, int]:
    if not found:
        raise ValueError("found: expected one fit at least, got none")
    # rows that are about as full as one another
    rows = math.ceil(len(found) / COLUMNS)
    return rows, math.ceil(len(found) / rows)


def _grid(found: Found, ax: Any, size: tuple[float, float], share: bool) -> np.ndarray:
    """Panels for the fits, those left over hidden."""
    rows, columns = _grid_size(found)
    if ax is not None:
        return style.panels(ax, 1, len(found), size)
    axes = style.panels(None, rows, columns, size, share_x=share, share_y=share)
    for panel in axes.flat[len(found) :]:
        panel.set_visible(False)
    return axes


def _label(axes: np.ndarray, count: int, below: str, beside: str) -> None:
    """Labels at the left, and below the last panel of each column."""
    columns = axes.shape[1]
    for k, panel in enumerate(axes.flat[:count]):
        if k % columns == 0:
            panel.set_ylabel(beside)
        if k + columns >= count:
            panel.set_xlabel(below)
            panel.tick_params(labelbottom=True)


def _names(found: Found) -> tuple[str, str]:
    posterior = next(iter(found.values())).posterior
    q, p = posterior.names[0], posterior.names[posterior.num_dof]
    return style.label(q, posterior.units), style.label(p, posterior.units)


def _draw_field(panel: Axes, plane: Plane, one: Prediction) -> Any:
    """Streamlines of the mean field over its relative standard deviation; the shade."""
    import matplotlib
    from matplotlib.colors import BoundaryNorm, ListedColormap

    field = one.posterior.vector_field(plane.x)
    shape = (GRID, GRID, -1)
    mean, stddev = (
        style.numbers(part[:, list(plane.axes)]).reshape(shape)
        for part in (field.mean, field.stddev)
    )
    typical = np.sqrt((mean**2).mean((0, 1))).clip(np.finfo(float).tiny)
    relative = np.sqrt(((stddev / typical) ** 2).mean(-1))
    levels = np.array(RELATIVE_LEVELS)
    # the darkest shades would hide lines
    colours = ListedColormap(
        matplotlib.colormaps[style.UNCERTAINTY_MAP](np.linspace(0.0, 0.75, 256))
    )
    norm = BoundaryNorm(levels, colours.N, extend="max")
    shade = panel.contourf(
        plane.q, plane.p, relative, levels, cmap=colours, norm=norm, extend="max"
    )
    look: dict[str, Any] = {"color": style.MODEL, "linewidth": 0.6, "arrowsize": 0.7}
    panel.streamplot(plane.q, plane.p, mean[..., 0], mean[..., 1], density=0.8, **look)
    return shade


def _draw_paths(panel: Axes, one: Prediction, trajectory: int) -> None:
    """A few draws of one trajectory, and the true path."""
    second = one.posterior.num_dof
    text: str | None = "draws"
    for path in style.numbers(one.rollouts.samples[: style.PATHS, trajectory]):
        panel.plot(path[:, 0], path[:, second], label=text, **style.PATH)
        text = None
    if one.kind == "latent":
        truth = style.numbers(one.truth[trajectory])
        panel.plot(truth[:, 0], truth[:, second], label="true path", **style.TRUE_LINE)
