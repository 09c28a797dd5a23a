"""Pictures of a posterior in phase space: its field and its Hamiltonian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sympgp.plots import style
from sympgp.plots.choice import Coordinate
from sympgp.plots.contours import draw_lines, shade_levels
from sympgp.plots.levels import even_levels, spread_levels
from sympgp.plots.plane import FieldPosterior, Plane, Region, make_plane
from sympgp.plots.turns import Wrap, path_pieces
from sympgp.rollouts import Rollouts
from sympgp.trajectories import StateDerivatives, Trajectories, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

RELATIVE_LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def phase_portrait(
    posterior: FieldPosterior,
    data: Trajectories | StateDerivatives | None = None,
    dof: int = 0,
    ax: Axes | None = None,
    *,
    rollouts: Rollouts | None = None,
    coordinates: Sequence[Coordinate] | None = None,
    at: Mapping[str, float | int] | None = None,
    region: Region | None = None,
    size: int = 41,
    wrap: Wrap = None,
    covariates: Any = None,
) -> Axes:
    """Streamlines of the mean field over its uncertainty, with the data on top.

    The shade is the standard deviation of the field relative to its typical size in the picture,
    ``sqrt(mean_c (stddev_c / rms(mean_c))^2)`` over its two components c. Hatched regions are
    far from all data: what is drawn there is mostly the prior's.

    With several degrees of freedom the picture is a section of phase space: the title says where
    the other coordinates are held, and data and rollouts are projected onto it. The two
    components of the field in the section are drawn; it usually has others that leave it. Of a
    driven system it is the field without inputs.

    Args:
        posterior: the fit.
        data: what to draw and to find the region from; by default the data of the fit.
        dof: degree of freedom whose coordinate and momentum are the axes.
        ax: axes to draw in; None for a new figure.
        rollouts: paths of which to draw a few.
        coordinates: names or positions of the two coordinates along the axes, in place of
            ``dof``.
        at: values of other coordinates by name; the data's mean for those it leaves out.
        region: ``((q_min, q_max), (p_min, p_max))``; by default around the data.
        size: grid points along each axis.
        wrap: angles to draw within one turn, as for :func:`bands`: the whole turn unless
            ``region`` says less.
        covariates: (C,) where a parameter depends on them: the field is that of a new trajectory
            with these.

    Raises:
        ValueError: a coordinate that is not there; a region that is empty, or is needed because
            a coordinate was not observed; covariates that are missing or wrong.
    """
    plane = make_plane(posterior, data, dof, coordinates, at, region, rollouts, size, wrap)
    mean, stddev = _components(posterior, plane, covariates)
    typical = np.sqrt((mean**2).mean((1, 2), keepdims=True)).clip(np.finfo(float).tiny)
    relative = np.sqrt(((stddev / typical) ** 2).mean(0))
    axes = style.panels(ax, 1, 1, (6.4, 4.8))
    panel = axes[0, 0]
    text = "std of the field / its typical size"
    shade_levels(panel, plane, relative, np.array(RELATIVE_LEVELS), style.UNCERTAINTY_MAP, text)
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
    _finish(axes, plane, posterior, ax, covariates, _undriven(posterior))
    return panel


def vector_field(
    posterior: FieldPosterior,
    dof: int = 0,
    ax: Any = None,
    *,
    data: Trajectories | StateDerivatives | None = None,
    coordinates: Sequence[Coordinate] | None = None,
    at: Mapping[str, float | int] | None = None,
    region: Region | None = None,
    size: int = 61,
    wrap: Wrap = None,
    covariates: Any = None,
) -> np.ndarray:
    """Mean and standard deviation of dq/dt and dp/dt over the plane of one degree of freedom.

    Arguments without a description here are those of :func:`phase_portrait`.

    Args:
        posterior: the fit.
        dof: degree of freedom.
        ax: four axes to draw in; None for a new figure.
        data: what to draw.
        coordinates: the two coordinates along the axes, whose rates are drawn.
        at: values of other coordinates.
        region: the part to draw.
        size: grid points along each axis.
        wrap: angles to draw within one turn.
        covariates: of the trajectory whose field is drawn.

    Returns:
        Axes (2, 2): dq/dt above dp/dt, mean beside standard deviation.

    Raises:
        ValueError: as :func:`phase_portrait`; another number of axes than four.
    """
    plane = make_plane(posterior, data, dof, coordinates, at, region, None, size, wrap)
    mean, stddev = _components(posterior, plane, covariates)
    axes = style.panels(ax, 2, 2, (4.6, 3.5))
    for row, d in enumerate(plane.axes):
        text = style.rate_label(posterior.names[d], posterior.units)
        bound = np.abs(mean[row]).max()
        levels = even_levels(np.array([-bound, bound]), 14)
        shade_levels(axes[row, 0], plane, mean[row], levels, style.SIGNED_MAP, f"mean of {text}")
        levels = spread_levels(stddev[row])
        shade_levels(
            axes[row, 1], plane, stddev[row], levels, style.UNCERTAINTY_MAP, f"std of {text}"
        )
    _finish(axes, plane, posterior, ax, covariates, _undriven(posterior))
    return axes


def hamiltonian(
    posterior: FieldPosterior,
    dof: int = 0,
    ax: Any = None,
    *,
    data: Trajectories | StateDerivatives | None = None,
    coordinates: Sequence[Coordinate] | None = None,
    at: Mapping[str, float | int] | None = None,
    region: Region | None = None,
    size: int = 61,
    wrap: Wrap = None,
    covariates: Any = None,
) -> np.ndarray:
    """Contours of the Hamiltonian's mean beside those of its standard deviation.

    Both are of ``H(x) - H(reference)`` with the posterior's default reference, since an energy is
    known up to a constant only. Contours of the mean are in even steps over the energies that it
    has near data, those of the standard deviation in about equal ratios.

    With ``coordinates=("q1", "q2"), at={"p1": 0, "p2": 0}`` the picture is the potential energy of
    two degrees of freedom. Arguments are those of :func:`vector_field`.

    Returns:
        Axes (2,): mean, standard deviation.

    Raises:
        TypeError: the posterior's field has no energy.
        ValueError: as :func:`phase_portrait`; another number of axes than two.
    """
    plane = make_plane(posterior, data, dof, coordinates, at, region, None, size, wrap)
    energy = posterior.hamiltonian(plane.x, **_known(covariates))
    mean, stddev = (style.numbers(v).reshape(size, size) for v in (energy.mean, energy.stddev))
    axes = style.panels(ax, 1, 2, (5.2, 4.0))
    text = style.energy_label("H", posterior.names, posterior.units)
    # contours where data are; corners far from them often have many times their energy
    near = mean if plane.far is None or plane.far.all() else mean[~plane.far]
    maps = (
        (mean, even_levels(near), style.LEVEL_MAP, f"mean of {text}"),
        (stddev, spread_levels(stddev), style.UNCERTAINTY_MAP, f"std of {text}"),
    )
    for panel, (values, levels, colours, said) in zip(axes[0], maps, strict=True):
        shade_levels(panel, plane, values, levels, colours, said)
        draw_lines(panel, plane, values, levels)
    _finish(axes, plane, posterior, ax, covariates)
    return axes[0]


def _known(covariates: Any) -> dict[str, Any]:
    """Covariates as an argument, which posteriors without any need not have."""
    return {} if covariates is None else {"covariates": covariates}


def _components(
    posterior: FieldPosterior, plane: Plane, covariates: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the plane's two components on the grid, (2, G, G) each."""
    field = posterior.vector_field(plane.x, **_known(covariates))
    shape = (2, len(plane.p), len(plane.q))
    parts = (style.numbers(v)[:, list(plane.axes)].T for v in (field.mean, field.stddev))
    mean, stddev = (part.reshape(shape) for part in parts)
    return mean, stddev


def _draw_paths(panel: Axes, plane: Plane, rollouts: Rollouts) -> None:
    """A few draws: a mean over draws that go apart would be no path."""
    draws, trajectories = style.some_paths(rollouts.num_draws, rollouts.num_trajectories)
    paths = rollouts.samples[:draws, :trajectories][..., list(plane.axes)].flatten(0, 1)
    total = rollouts.num_draws * rollouts.num_trajectories
    text: str | None = style.paths_label(len(paths), total)
    periods = [plane.periods.get(d) for d in plane.axes]
    for path in style.numbers(paths):
        for x, y in path_pieces(*path.T, *periods):
            panel.plot(x, y, label=text, **style.PATH)
            text = None


def _undriven(posterior: FieldPosterior) -> str:
    """What is said of inputs in a picture of the field."""
    data = posterior.data
    names = data.input_names if isinstance(data, Trajectories) else ()
    return f"without inputs ({', '.join(names)} = 0)" if names else ""


def _at_covariates(posterior: FieldPosterior, covariates: Any) -> str:
    """What is said of the trajectory whose field it is."""
    data = posterior.data
    if covariates is None or not isinstance(data, Trajectories):
        return ""
    values = as_tensor(covariates, "covariates").reshape(-1).tolist()
    pairs = zip(data.covariate_names, values, strict=False)
    return "at " + ", ".join(style.value_label(name, v, data.units) for name, v in pairs)


def _finish(
    axes: np.ndarray,
    plane: Plane,
    posterior: FieldPosterior,
    ax: Any,
    covariates: Any,
    note: str = "",
) -> None:
    """Data, labels and limits of every panel; what holds for all of them once."""
    known = plane.observed[np.isfinite(plane.observed).all(1)]
    look = style.SEEN | {"markersize": 2.5, "markeredgecolor": "white", "markeredgewidth": 0.3}
    text = "data, projected" if plane.title else "data"
    names = [posterior.names[d] for d in plane.axes]
    for panel in axes.flat:
        if len(known):
            panel.plot(known[:, 0], known[:, 1], label=text, **look)
        panel.set_xlabel(style.label(names[0], posterior.units))
        panel.set_ylabel(style.label(names[1], posterior.units))
        panel.set_xlim(plane.q[0], plane.q[-1])
        panel.set_ylim(plane.p[0], plane.p[-1])
    notes = (plane.title, _at_covariates(posterior, covariates), note)
    style.legend(axes, ax is None, note=", ".join(filter(None, notes)))
