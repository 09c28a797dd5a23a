"""The start: canonical scaling from smoothed data, and the integral form of the ODE.

Momenta that were never observed come from the smoothed coordinates and their rates, through the
relation between momentum and velocity that the energy knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sympgp.distributed import ALONE, Ranks
from sympgp.fields import HamiltonianField, as_points
from sympgp.inference.evidence import FrozenModel
from sympgp.inference.smoothing import SmoothedPath, smooth, smooth_robustly
from sympgp.noise import Noise, ScaledNoise
from sympgp.phase_space import CanonicalScaling, join, split
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import Drive, FrozenPath
from sympgp.trajectories import Trajectories
from sympgp.trajectories.signals import Interpolation

Momenta = Callable[[Tensor, Tensor], Tensor | None]
"""From coordinates and velocities (..., n) to the momenta, in user units."""
START_WINDOW, START_NODES = 5.0, 3000
"""Windows of the integral form, in scaled time: errors of the smoothed path must not add up; and
how many nodes enter it."""
PSEUDO_NOISE = 0.1
"""Share of its spread by which a momentum from smoothed coordinates is taken to be off."""
LONGEST_GAP = 100.0
"""A gap of this many scaled times, 16 oscillations, leaves no phase to continue."""


@dataclass(frozen=True)
class Prepared:
    """Data in scaled units with a smoothed path.

    Attributes:
        scaling: between scaled and user units.
        nodes: the data.
        noise: its law, scaled.
        path: smoothed states between the nodes.
        step: solver step, scaled.
        missing: (D,) channels that are never observed, whose path comes from the others.
    """

    scaling: CanonicalScaling
    nodes: Nodes
    noise: ScaledNoise
    path: SmoothedPath
    step: float
    missing: Bool[Tensor, " dim"]

    @property
    def known_states(self) -> Float[Tensor, "states dim"]:
        """The smoothed path where there are observations."""
        return self.path.stages[self.nodes.mask.any(1), 0]

    def of(self, trajectories: Int[Tensor, " chosen"]) -> tuple[Prepared, Int[Tensor, " own"]]:
        """Some trajectories, in this order; and where their nodes were."""
        nodes, index = self.nodes.of(trajectories)
        rates = None if self.path.rates is None else self.path.rates[index]
        path = replace(self.path, stages=self.path.stages[index], rates=rates)
        return replace(self, nodes=nodes, path=path), index

    def completed(self) -> tuple[Nodes, SmoothedPath]:
        """Nodes and path with the smoothed values as observations of what is missing.

        For the start alone, which has no other way to learn how momenta change.
        """
        seen = self.nodes.mask.any(1, keepdim=True) & self.missing
        nodes = replace(
            self.nodes,
            values=torch.where(seen, self.path.stages[:, 0], self.nodes.values),
            mask=self.nodes.mask | seen,
            weights=torch.where(seen, 1.0, self.nodes.weights),
        )
        rough = PSEUDO_NOISE * self.scaling.spread
        std = torch.where(self.missing, rough, self.path.noise_std)
        return nodes, replace(self.path, noise_std=std)


def prepare(
    data: Trajectories,
    noise: Noise,
    step: float | None,
    default_step: float,
    momenta: Momenta | None = None,
    interpolation: Interpolation = "linear",
    ranks: Ranks = ALONE,
) -> Prepared:
    """Scale the data so that states and their rates are of order one.

    Momenta that are never observed are taken from the smoothed coordinates and their rates.

    Args:
        data: checked against the model.
        noise: its law.
        step: solver step in user time, or None for the default.
        default_step: in scaled time, where one unit is a radian of the typical oscillation.
        momenta: from coordinates and velocities (..., n) to momenta, in user units; or to None
            where the energy does not fix their scale.
        interpolation: of inputs between samples.
        ranks: processes that smooth a share each; all of them have the same data.

    Raises:
        ValueError: a coordinate that is never observed, or a momentum where nothing fixes the
            scale of momenta; a gap that no trajectory can be followed across.
    """
    # Rows without any observation count for nothing, not even in the sampling interval.
    seen = [~x.isnan().all(-1) for x in data.states]
    states = torch.cat([x[s] for x, s in zip(data.states, seen, strict=True)])
    times = [t[s] for t, s in zip(data.times, seen, strict=True)]
    missing = states.isnan().all(0)
    interval = torch.cat([t.diff() for t in times]).median()
    origin = torch.stack([t[0] for t in times]).min()
    if bool(missing.any()):
        momenta = _check_missing(data, missing, momenta)
        states = _completed(data, states, noise, interval, missing, momenta, ranks)
    center = states.nanmean(0)
    spread = ((states - center) ** 2).nanmean(0).sqrt()
    scaling = CanonicalScaling.from_spread(center, spread, interval, origin)
    nodes = Nodes.from_data(data, scaling, interpolation)
    law = noise.scaled(scaling).ignoring(missing)
    nodes, law, path = smooth_robustly(nodes, law, 1, bool(missing.any()), ranks)
    path = _with_momenta(path, scaling, missing, momenta)
    unit = _characteristic_time(nodes, path, scaling.spread)
    scaling = replace(scaling, time_scale=interval * unit)
    nodes = replace(nodes, times=nodes.times / unit, dt=nodes.dt / unit)
    _check_gaps(times, scaling)
    scaled_step = default_step if step is None else step / float(scaling.time_scale)
    parts = math.ceil(float(nodes.dt.max()) / default_step)
    if parts > 1:
        path = smooth(nodes, parts, bool(missing.any()), ranks)
        path = _with_momenta(path, scaling, missing, momenta)
    path = replace(path, noise_std=law.start(path.noise_std), rates=None)
    return Prepared(scaling, nodes, law, path, scaled_step, missing)


def _check_missing(data: Trajectories, missing: Tensor, momenta: Momenta | None) -> Momenta:
    """Refuse channels without any observation that nothing else tells.

    Raises:
        ValueError: such a coordinate, or a momentum where ``momenta`` gives none.
    """
    absent = [name for name, gone in zip(data.names, missing.tolist(), strict=True) if gone]
    positions = [name for name in absent if name in data.names[: data.num_dof]]
    if positions:
        raise ValueError(
            f"data: expected observations of every coordinate, got none of {', '.join(positions)}; "
            "no model tells a coordinate that is never seen"
        )
    some = data.states[0].new_zeros(1, data.num_dof)
    if momenta is None or momenta(some, some) is None:
        raise ValueError(
            f"data: {', '.join(absent)} is never observed, and the energy does not fix the scale "
            "of momenta: from positions alone H and a multiple of it with all momenta multiplied "
            "alike are the same; give the model a known mass or kinetic energy, or measure momenta"
        )
    return momenta


def _completed(
    data: Trajectories,
    states: Tensor,
    noise: Noise,
    interval: Tensor,
    missing: Tensor,
    momenta: Momenta,
    ranks: Ranks,
) -> Tensor:
    """The observed states (rows, D) with momenta from smoothed coordinates where missing."""
    center = states.nanmean(0).nan_to_num(0.0)
    spread = ((states - center) ** 2).nanmean(0).sqrt().nan_to_num(1.0)
    # Any scale will do: a smoother follows the units of its data.
    scaling = CanonicalScaling.from_spread(center, spread, interval, torch.zeros_like(interval))
    nodes = Nodes.from_data(data, scaling)
    law = noise.scaled(scaling).ignoring(missing)
    nodes, _, path = smooth_robustly(nodes, law, 1, True, ranks)
    path = _with_momenta(path, scaling, missing, momenta)
    smoothed = scaling.to_user(path.stages[nodes.mask.any(1), 0])
    return torch.where(missing, smoothed, states)


def _with_momenta(
    path: SmoothedPath, scaling: CanonicalScaling, missing: Tensor, momenta: Momenta | None
) -> SmoothedPath:
    """The path with momenta from coordinates and their rates in channels that are missing.

    Raises:
        ValueError: momenta that are not finite.
    """
    if momenta is None or path.rates is None:
        return path
    q, _ = split(scaling.to_user(path.stages))
    velocity, _ = split(scaling.velocity_scale * path.rates)
    found = momenta(q, velocity)
    if found is None or not bool(found.isfinite().all()):
        raise ValueError(
            "data: the energy gives no finite momenta for the velocities of the smoothed "
            "coordinates; look for coordinates or times in other units than those of the energy"
        )
    filled = scaling.to_scaled(join(torch.zeros_like(q), found))
    return replace(path, stages=torch.where(missing, filled, path.stages))


def _check_gaps(times: list[Tensor], scaling: CanonicalScaling) -> None:
    """Refuse gaps that no trajectory can be followed across.

    Raises:
        ValueError: such a gap, with its place.
    """
    for index, own in enumerate(times):
        gap = own.diff() / scaling.time_scale
        if len(gap) and float(gap.max()) > LONGEST_GAP:
            row = int(gap.argmax())
            raise ValueError(
                f"data: trajectory {index} has a gap from t = {float(own[row]):g} to "
                f"{float(own[row + 1]):g}, more than {LONGEST_GAP / 6.3:.0f} oscillations long; "
                "split it there into two trajectories"
            )


def _characteristic_time(nodes: Nodes, path: SmoothedPath, spread: Tensor) -> Tensor:
    """One over the root mean square rate of the states in units of their spread."""
    moving = nodes.dt > 0
    rate = (path.stages[moving, -1] - path.stages[moving, 0]) / nodes.dt[moving, None]
    return 1.0 / ((rate / spread) ** 2).mean().sqrt()


def integral_form(
    field: HamiltonianField, prepared: Prepared, iterations: int = 4
) -> Float[Tensor, " params"]:
    """Weights and friction from ``y(t_k) = z_0 + (int Psi(z) dt) w + noise`` along the smooth path.

    The initial state of each window is latent and integrated out. Friction multiplies the
    weights, so the linear solution is repeated about the last one.
    """
    nodes, path = prepared.completed()
    windows = Windows.of_duration(nodes, START_WINDOW).thinned(START_NODES)
    index = windows.nodes.reshape(-1)
    stages = path.stages[index]
    batch, num, dim = stages.shape
    simpson = _simpson((num - 1) // 2).to(stages)
    eye = torch.eye(dim, dtype=stages.dtype, device=stages.device)
    weights = nodes.dt[index, None, None, None] * simpson[None, None, :, None] * eye[:, None, :]
    drive = Drive.over(nodes, index)
    if drive is not None:
        share = torch.linspace(0.0, 1.0, num).to(stages).unsqueeze(-1)
        u = drive.begin.unsqueeze(1) + share * (drive.end - drive.begin).unsqueeze(1)
        stages = as_points(stages, u)
    frozen = FrozenPath(stages, eye.expand(batch, dim, dim), weights)
    first = path.stages[windows.nodes[:, :1], 0].expand(*windows.nodes.shape, dim)
    # Errors of the smoothed path add to the noise; a half more is a round allowance for them.
    noise_std = 1.5 * path.noise_std
    theta = stages.new_zeros(field.num_parameters)
    theta[field.num_weights :] = field.dissipation.start()
    again = field.dissipation.num_parameters or not field.basis.linear
    for _ in range(iterations if again else 1):
        rest = field.remainder(frozen.stages.flatten(0, 1), theta)
        slope = None if rest is None else -rest.unflatten(0, (batch, num))
        model = FrozenModel.about(frozen, slope, first, nodes, windows)
        _, theta = model.solve(field.basis, field, theta, 1.0 / noise_std**2)
    return theta


def _simpson(parts: int) -> Tensor:
    """Weights of the composite Simpson rule on the unit interval, (2 parts + 1,)."""
    weights = torch.zeros(2 * parts + 1, dtype=torch.float64)
    for k in range(parts):
        weights[2 * k : 2 * k + 3] += torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)
    return weights / (6.0 * parts)
