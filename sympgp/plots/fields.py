"""Pictures of a posterior in phase space: its field and its Hamiltonian."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sympgp.plots import style
from sympgp.plots.plane import FieldPosterior, Plane, Region, make_plane
from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

RELATIVE_LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

PATHS = 8
"""Rollouts drawn in a phase portrait, over all trajectories (at least one of each)."""


def phase_portrait(
    posterior: FieldPosterior,
    data: Trajectories | None = None,
    dof: int = 0,
    ax: Axes | None = None,
    *,
    rollouts: Rollouts | None = None,
    region: Region | None = None,
    size: int = 41,
) -> Axes:
    """Streamlines of the mean field over its uncertainty, with the data on top.

    The shade is the standard deviation of the field relative to its typical size in the picture,
    ``sqrt(mean_c (stddev_c / rms(mean_c))^2)`` over its two components c. Hatched regions are
    far from all data: what is drawn there is mostly the prior's. With several degrees of freedom
    the other coordinates are held at the data's mean, and the data are projected.

    Args:
        posterior: the fit.
        data: what to draw and to find the region from; by default the data of the fit.
        dof: which degree of freedom.
        ax: axes to draw in; None for a new figure.
        rollouts: paths to draw, some draws of each.
        region: ``((q_min, q_max), (p_min, p_max))``; by default around the data.
        size: grid points along each axis.

    Raises:
        ValueError: a degree of freedom that is not there; a region that is empty, or is needed
            because a coordinate was not observed.
    """
    plane = make_plane(posterior, data, dof, region, rollouts, size)
    mean, stddev = _components(posterior, plane)
    typical = np.sqrt((mean**2).mean((1, 2), keepdims=True)).clip(np.finfo(float).tiny)
    relative = np.sqrt(((stddev / typical) ** 2).mean(0))
    axes = style.panels(ax, 1, 1, (6.4, 4.8))
    panel = axes[0, 0]
    shade = panel.contourf(
        plane.q, plane.p, relative, RELATIVE_LEVELS, cmap=style.UNCERTAINTY_MAP, extend="max"
    )
    panel.figure.colorbar(shade, ax=panel, label="std of the field / its typical size")
    _mark_far(panel, plane)
    panel.streamplot(
        plane.q,
        plane.p,
        mean[0],
        mean[1],
        color=style.MODEL,
        density=1.1,
        linewidth=0.8,
        arrowsize=0.9,
    )
    if rollouts is not None:
        _draw_paths(panel, plane, rollouts)
    _draw_data(panel, plane)
    _finish(panel, plane, posterior, ax)
    style.legend(axes, own_figure=ax is None)
    return panel


def vector_field(
    posterior: FieldPosterior,
    dof: int = 0,
    ax: Any = None,
    *,
    data: Trajectories | None = None,
    region: Region | None = None,
    size: int = 61,
) -> np.ndarray:
    """Mean and standard deviation of dq/dt and dp/dt over the plane of one degree of freedom.

    Args:
        posterior: the fit.
        dof: which degree of freedom.
        ax: four axes to draw in; None for a new figure.
        data: what to draw and to find the region from; by default the data of the fit.
        region: ``((q_min, q_max), (p_min, p_max))``; by default around the data.
        size: grid points along each axis.

    Returns:
        Axes (2, 2): dq/dt above dp/dt, mean beside standard deviation.

    Raises:
        ValueError: as :func:`phase_portrait`; another number of axes than four.
    """
    plane = make_plane(posterior, data, dof, region, None, size)
    mean, stddev = _components(posterior, plane)
    axes = style.panels(ax, 2, 2, (4.6, 3.5))
    for row, d in enumerate(plane.axes):
        text = style.rate_label(posterior.names[d], posterior.units)
        _draw_map(axes[row, 0], plane, mean[row], style.SIGNED_MAP, f"mean of {text}", signed=True)
        _draw_map(axes[row, 1], plane, stddev[row], style.UNCERTAINTY_MAP, f"std of {text}")
    for panel in axes.ravel():
        _draw_data(panel, plane)
        _finish(panel, plane, posterior, ax)
    style.legend(axes, own_figure=ax is None)
    return axes


def hamiltonian(
    posterior: FieldPosterior,
    dof: int = 0,
    ax: Any = None,
    *,
    data: Trajectories | None = None,
    region: Region | None = None,
    size: int = 61,
) -> np.ndarray:
    """Contours of the Hamiltonian's mean beside those of its standard deviation.

    Both are of ``H(x) - H(reference)`` with the posterior's default reference, since an energy is
    known up to a constant only.

    Args:
        posterior: the fit.
        dof: which degree of freedom.
        ax: two axes to draw in; None for a new figure.
        data: what to draw and to find the region from; by default the data of the fit.
        region: ``((q_min, q_max), (p_min, p_max))``; by default around the data.
        size: grid points along each axis.

    Returns:
        Axes (2,): mean, standard deviation.

    Raises:
        TypeError: the posterior's field has no energy.
        ValueError: as :func:`phase_portrait`; another number of axes than two.
    """
    plane = make_plane(posterior, data, dof, region, None, size)
    energy = posterior.hamiltonian(plane.x)
    mean, stddev = (style.numbers(v).reshape(size, size) for v in (energy.mean, energy.stddev))
    axes = style.panels(ax, 1, 2, (4.8, 3.8))[0]
    text = style.energy_label("H", posterior.names, posterior.units)
    _draw_map(axes[0], plane, mean, style.LEVEL_MAP, f"mean of {text}", lines=True)
    _draw_map(axes[1], plane, stddev, style.UNCERTAINTY_MAP, f"std of {text}")
    for panel in axes:
        _draw_data(panel, plane)
        _finish(panel, plane, posterior, ax)
    style.legend(axes, own_figure=ax is None)
    return axes


def _components(posterior: FieldPosterior, plane: Plane) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of dq/dt and dp/dt on the grid, (2, G, G) each."""
    field = posterior.vector_field(plane.x)
    shape = (2, len(plane.p), len(plane.q))
    parts = (style.numbers(v)[:, list(plane.axes)].T for v in (field.mean, field.stddev))
    mean, stddev = (part.reshape(shape) for part in parts)
    return mean, stddev


def _draw_map(
    panel: Axes,
    plane: Plane,
    values: np.ndarray,
    colours: str,
    text: str,
    *,
    signed: bool = False,
    lines: bool = False,
) -> None:
    """Filled contours; signed values are coloured symmetrically about zero."""
    limits = {}
    if signed:
        bound = np.abs(values).max()
        limits = {"vmin": -bound, "vmax": bound}
    levels = 14 if signed or lines else 8
    filled = panel.contourf(plane.q, plane.p, values, levels, cmap=colours, **limits)
    if lines:
        panel.contour(
            plane.q,
            plane.p,
            values,
            filled.levels,
            colors="white",
            linewidths=0.4,
            linestyles="solid",
        )
    panel.figure.colorbar(filled, ax=panel, label=text)
    _mark_far(panel, plane)


def _mark_far(panel: Axes, plane: Plane) -> None:
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


def _draw_data(panel: Axes, plane: Plane) -> None:
    known = plane.observed[np.isfinite(plane.observed).all(1)]
    if len(known):
        edge = {"markersize": 2.5, "markeredgecolor": "white", "markeredgewidth": 0.3}
        panel.plot(known[:, 0], known[:, 1], label="data", **style.SEEN | edge)


def _draw_paths(panel: Axes, plane: Plane, rollouts: Rollouts) -> None:
    """Some draws of every trajectory: a mean over draws that go apart would be no path."""
    num_draws = max(1, PATHS // rollouts.num_trajectories)
    paths = style.numbers(rollouts.samples[:num_draws, ..., list(plane.axes)].flatten(0, 1))
    lines = panel.plot(paths[..., 0].T, paths[..., 1].T, **style.PATH)
    lines[0].set_label("rollouts")


def _finish(panel: Axes, plane: Plane, posterior: FieldPosterior, ax: Any) -> None:
    names = [posterior.names[d] for d in plane.axes]
    panel.set_xlabel(style.label(names[0], posterior.units))
    panel.set_ylabel(style.label(names[1], posterior.units))
    panel.set_xlim(plane.q[0], plane.q[-1])
    panel.set_ylim(plane.p[0], plane.p[-1])
    if plane.title:
        # in axes of the caller's, the legend is between the panel and its title
        panel.set_title(plane.title, fontsize="small", pad=None if ax is None else 22)
