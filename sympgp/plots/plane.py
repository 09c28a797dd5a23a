"""A plane of phase space to draw on: the (q, p) of one degree of freedom, others held fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories

Region = tuple[tuple[float, float], tuple[float, float]]
"""``((q_min, q_max), (p_min, p_max))``."""

MARGIN = 0.15
"""Empty border of the region, as a share of the data's range."""

FAR = 0.3
"""Least distance from the nearest datum that counts as far, in standard deviations of the data."""

GAPS = 1.5
"""Far is also more than this many times the usual distance between neighbouring data."""


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
    def data(self) -> Trajectories:
        """The data it was fitted to."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""

    @property
    def units(self) -> Mapping[str, str]:
        """Units by name."""

    def vector_field(self, x: Tensor) -> Moments:
        """dx/dt at states (B, 2n)."""

    def hamiltonian(self, x: Tensor) -> Moments:
        """The energy at states (B, 2n)."""


@dataclass(frozen=True)
class Plane:
    """A grid on the plane of one degree of freedom.

    Attributes:
        q: (G,) values of the coordinate.
        p: (G,) values of the momentum.
        x: (G * G, D) states; row i * G + j is at ``p[i], q[j]``.
        observed: (B, 2) where the data are in this plane, projected onto it.
        far: (G, G) whether a point is far from all data, or None if that cannot be told.
        axes: positions of q and p in a state.
        title: what is held fixed; empty for one degree of freedom.
    """

    q: np.ndarray
    p: np.ndarray
    x: Float[Tensor, "points dim"]
    observed: np.ndarray
    far: np.ndarray | None
    axes: tuple[int, int]
    title: str


def make_plane(
    posterior: FieldPosterior,
    data: Trajectories | None,
    dof: int,
    region: Region | None,
    rollouts: Rollouts | None,
    size: int,
) -> Plane:
    """The plane of degree of freedom ``dof`` around the data.

    Raises:
        ValueError: a degree of freedom that is not there; a region that is empty, or that has to
            be given because nothing observed shows where it is.
    """
    data = posterior.data if data is None else data
    num_dof = data.num_dof
    if not 0 <= dof < num_dof:
        raise ValueError(f"dof: expected 0 to {num_dof - 1}, got {dof}")
    axes = (dof, num_dof + dof)
    states = torch.cat(data.states)
    plane = states[:, list(axes)]
    (q_min, q_max), (p_min, p_max) = region or _region(plane, rollouts, axes)
    if not (q_min < q_max and p_min < p_max):
        raise ValueError(f"region: expected ((q_min, q_max), (p_min, p_max)), got {region}")
    q = torch.linspace(q_min, q_max, size, dtype=states.dtype, device=states.device)
    p = torch.linspace(p_min, p_max, size, dtype=states.dtype, device=states.device)
    x = states.nanmean(0).nan_to_num(0.0).repeat(size * size, 1)
    x[:, axes[0]], x[:, axes[1]] = q.repeat(size), p.repeat_interleave(size)
    far = _far_from(x[:, list(axes)], plane)
    held = [name for d, name in enumerate(data.names) if d not in axes]
    return Plane(
        q=q.cpu().numpy(),
        p=p.cpu().numpy(),
        x=x,
        observed=plane.cpu().numpy(),
        far=None if far is None else far.view(size, size).cpu().numpy(),
        axes=axes,
        title=f"{', '.join(held)} at the mean of the data" if held else "",
    )


def _region(
    plane: Float[Tensor, "points 2"], rollouts: Rollouts | None, axes: tuple[int, int]
) -> Region:
    """Range of data and rollouts' means in both coordinates, with a margin."""
    shown = [plane]
    if rollouts is not None:
        shown.append(rollouts.mean.flatten(0, 1)[:, list(axes)].to(plane))
    ranges = []
    for values in torch.cat(shown).unbind(1):
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
    grid: Float[Tensor, "points 2"], plane: Float[Tensor, "data 2"]
) -> Bool[Tensor, " points"] | None:
    """Which points lie far from all data, in the coordinates that were observed."""
    seen = plane.isfinite().any(0)
    known = plane[:, seen]
    known = known[known.isfinite().all(1)]
    if len(known) < 2:
        return None
    scale = known.std(0).clamp(min=torch.finfo(known.dtype).tiny)
    # a few thousand data show the outline as well as all of them
    known = known[:: -(-len(known) // 3000)] / scale
    gaps = torch.cdist(known, known).fill_diagonal_(torch.inf).amin(1)
    threshold = max(FAR, GAPS * gaps.quantile(0.9).item())
    return torch.cdist(grid[:, seen] / scale, known).amin(1) > threshold
