"""A plane of phase space to draw on: two coordinates, the others held fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.plots import style
from sympgp.plots.choice import Coordinate, positions
from sympgp.plots.turns import Wrap, periods_of
from sympgp.rollouts import Rollouts
from sympgp.trajectories import StateDerivatives, Trajectories, wrapped

Region = tuple[tuple[float, float], tuple[float, float]]
"""``((q_min, q_max), (p_min, p_max))``."""

MARGIN = 0.15
"""Empty border of the region, as a share of the data's range."""

FAR = 0.3
"""Least distance from the nearest datum that counts as far, in standard deviations of the data."""

GAPS = 1.5
"""Far is also more than this many times the usual distance between neighbouring data."""

MOST_STATED = 2
"""Coordinates held at the data's mean whose values a title says."""


@runtime_checkable
class Moments(Protocol):
    """Mean and standard deviation at each point."""

    @property
    def mean(self) -> Tensor:
        """The mean."""

    @property
    def stddev(self) -> Tensor:
        """The standard deviation."""


@runtime_checkable
class FieldPosterior(Protocol):
    """What the pictures ask of a posterior."""

    @property
    def data(self) -> Trajectories | StateDerivatives:
        """The data it was fitted to."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""

    @property
    def units(self) -> Mapping[str, str]:
        """Units by name."""

    @property
    def angles(self) -> Mapping[str, float]:
        """Periods of the coordinates that are angles, by name."""

    def vector_field(self, x: Tensor, *, covariates: Any = None) -> Moments:
        """dx/dt at states (B, 2n)."""

    def hamiltonian(self, x: Tensor, *, covariates: Any = None) -> Moments:
        """The energy at states (B, 2n)."""


@dataclass(frozen=True)
class Plane:
    """A grid on the plane of two coordinates, those of one degree of freedom as a rule.

    Attributes:
        q: (G,) values of the horizontal coordinate.
        p: (G,) values of the vertical one.
        x: (G * G, D) states; row i * G + j is at ``p[i], q[j]``.
        observed: (B, 2) where the data are in this plane, projected onto it.
        far: (G, G) whether a point is far from all data, or None if that cannot be told.
        axes: positions of both in a state.
        title: where the others are held; empty for one degree of freedom.
        periods: of angles, by their position in a state.
    """

    q: np.ndarray
    p: np.ndarray
    x: Float[Tensor, "points dim"]
    observed: np.ndarray
    far: np.ndarray | None
    axes: tuple[int, int]
    title: str
    periods: Mapping[int, float]


def make_plane(
    posterior: FieldPosterior,
    data: Trajectories | StateDerivatives | None,
    dof: int,
    coordinates: Sequence[Coordinate] | None,
    at: Mapping[str, float | int] | None,
    region: Region | None,
    rollouts: Rollouts | None,
    size: int,
    wrap: Wrap = None,
) -> Plane:
    """The plane of two coordinates, or of degree of freedom ``dof``, around the data.

    Raises:
        ValueError: a coordinate that is not there, or is held although it is an axis; a region
            that is empty, or that has to be given because nothing observed shows where it is.
    """
    data = posterior.data if data is None else data
    axes = _axes(data, dof, coordinates)
    states = data.states if isinstance(data, StateDerivatives) else torch.cat(data.states)
    periods = periods_of(wrap, posterior.names, posterior.angles)
    states = torch.stack(
        [wrapped(x, periods[d]) if d in periods else x for d, x in enumerate(states.unbind(1))], 1
    )
    plane = states[:, list(axes)]
    (q_min, q_max), (p_min, p_max) = region or _region(plane, rollouts, axes, periods)
    if not (q_min < q_max and p_min < p_max):
        raise ValueError(f"region: expected ((q_min, q_max), (p_min, p_max)), got {region}")
    q = torch.linspace(q_min, q_max, size, dtype=states.dtype, device=states.device)
    p = torch.linspace(p_min, p_max, size, dtype=states.dtype, device=states.device)
    through, title = _section(data, states.nanmean(0).nan_to_num(0.0), axes, at or {})
    x = through.repeat(size * size, 1)
    x[:, axes[0]], x[:, axes[1]] = q.repeat(size), p.repeat_interleave(size)
    far = _far_from(x, states, periods)
    return Plane(
        q=q.cpu().numpy(),
        p=p.cpu().numpy(),
        x=x,
        observed=plane.cpu().numpy(),
        far=None if far is None else far.view(size, size).cpu().numpy(),
        axes=axes,
        title=title,
        periods=periods,
    )


def _axes(
    data: Trajectories | StateDerivatives, dof: int, coordinates: Sequence[Coordinate] | None
) -> tuple[int, int]:
    """Positions of the two coordinates along the axes."""
    if coordinates is None:
        if not 0 <= dof < data.num_dof:
            raise ValueError(f"dof: expected 0 to {data.num_dof - 1}, got {dof}")
        return dof, data.num_dof + dof
    chosen, _ = positions(coordinates, data.names, data.state_dim)
    if len(chosen) != 2:
        raise ValueError(f"coordinates: expected two, got {tuple(coordinates)}")
    return chosen[0], chosen[1]


def _section(
    data: Trajectories | StateDerivatives,
    mean: Float[Tensor, " dim"],
    axes: tuple[int, int],
    at: Mapping[str, float | int],
) -> tuple[Float[Tensor, " dim"], str]:
    """A state that the plane passes through, and what is held fixed in words."""
    held = [name for d, name in enumerate(data.names) if d not in axes]
    for name in at:
        if name not in held:
            raise ValueError(
                f"at: expected values of {', '.join(held) or 'no coordinate'}, got one of {name!r}"
            )
    through = mean.clone()
    for name, value in at.items():
        through[data.names.index(name)] = value
    averaged = [name for name in held if name not in at]
    shown = list(at) + (averaged if len(averaged) <= MOST_STATED else [])
    parts = [
        style.value_label(name, through[data.names.index(name)].item(), data.units)
        for name in shown
    ]
    if len(averaged) > MOST_STATED:
        parts.append(f"{len(averaged)} other coordinates at the mean of the data")
    elif averaged:
        parts[-1] += " (mean of the data)" if len(averaged) == 1 else " (means of the data)"
    return through, "section at " + ", ".join(parts) if held else ""


def _region(
    plane: Float[Tensor, "points 2"],
    rollouts: Rollouts | None,
    axes: tuple[int, int],
    periods: Mapping[int, float],
) -> Region:
    """Range of data and rollouts' means in both coordinates, with a margin; a turn of an angle."""
    shown = [plane]
    if rollouts is not None:
        shown.append(rollouts.mean.flatten(0, 1)[:, list(axes)].to(plane))
    ranges = []
    for d, values in zip(axes, torch.cat(shown).unbind(1), strict=True):
        if d in periods:
            ranges.append((-0.5 * periods[d], 0.5 * periods[d]))
            continue
        values = values[values.isfinite()]
        if len(values) == 0:
            raise ValueError(
                "region: expected ((q_min, q_max), (p_min, p_max)), because one of the "
                "coordinates was not observed; got None"
            )
        low, high = values.min().item(), values.max().item()
        margin = MARGIN * (high - low) or 1.0
        ranges.append((low - margin, high + margin))
    return ranges[0], ranges[1]


def _far_from(
    grid: Float[Tensor, "points dim"], data: Float[Tensor, "data dim"], periods: Mapping[int, float]
) -> Bool[Tensor, " points"] | None:
    """Which points lie far from all data, in the coordinates that were observed."""
    seen = data.isfinite().any(0)
    known = data[:, seen]
    known = known[known.isfinite().all(1)]
    if len(known) < 2:
        return None
    scale = known.std(0).clamp(min=torch.finfo(known.dtype).tiny)
    # a few thousand data show the outline as well as all of them
    known = known[:: -(-len(known) // 3000)] / scale
    turns = {
        k: periods[d] / float(scale[k])
        for k, d in enumerate(seen.nonzero().flatten().tolist())
        if d in periods
    }
    known, points = _on_circles(known, turns), _on_circles(grid[:, seen] / scale, turns)
    gaps = torch.cdist(known, known).fill_diagonal_(torch.inf).amin(1)
    threshold = max(FAR, GAPS * gaps.quantile(0.9).item())
    return torch.cdist(points, known).amin(1) > threshold


def _on_circles(x: Float[Tensor, "points dim"], periods: Mapping[int, float]) -> Tensor:
    """Angles as points of a circle of that circumference: near ones are near across the seam."""
    columns = []
    for d, values in enumerate(x.unbind(1)):
        if d not in periods:
            columns.append(values)
            continue
        radius = periods[d] / (2.0 * torch.pi)
        columns += [radius * (values / radius).cos(), radius * (values / radius).sin()]
    return torch.stack(columns, 1)
