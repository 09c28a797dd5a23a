"""The start: canonical scaling from smoothed data, and the integral form of the ODE."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.fields import HamiltonianField
from sympgp.inference.evidence import FrozenModel
from sympgp.inference.smoothing import SmoothedPath, smooth, smooth_robustly
from sympgp.noise import Noise, ScaledNoise
from sympgp.phase_space import CanonicalScaling
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import FrozenPath
from sympgp.trajectories import Trajectories

START_WINDOW, START_NODES = 5.0, 3000
"""Windows of the integral form, in scaled time: errors of the smoothed path must not add up; and
how many nodes enter it."""
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
    """

    scaling: CanonicalScaling
    nodes: Nodes
    noise: ScaledNoise
    path: SmoothedPath
    step: float


def prepare(data: Trajectories, noise: Noise, step: float | None, default_step: float) -> Prepared:
    """Scale the data so that states and their rates are of order one.

    Args:
        data: checked against the model.
        noise: its law.
        step: solver step in user time, or None for the default.
        default_step: in scaled time, where one unit is a radian of the typical oscillation.
    """
    # Rows without any observation count for nothing, not even in the sampling interval.
    seen = [~x.isnan().all(-1) for x in data.states]
    states = torch.cat([x[s] for x, s in zip(data.states, seen, strict=True)])
    times = [t[s] for t, s in zip(data.times, seen, strict=True)]
    center = states.nanmean(0)
    spread = ((states - center) ** 2).nanmean(0).sqrt()
    interval = torch.cat([t.diff() for t in times]).median()
    origin = torch.stack([t[0] for t in times]).min()
    scaling = CanonicalScaling.from_spread(center, spread, interval, origin)
    nodes = Nodes.from_data(data, scaling)
    law = noise.scaled(scaling)
    nodes, law, path = smooth_robustly(nodes, law, 1)
    unit = _characteristic_time(nodes, path, scaling.spread)
    scaling = replace(scaling, time_scale=interval * unit)
    nodes = replace(nodes, times=nodes.times / unit, dt=nodes.dt / unit)
    _check_gaps(times, scaling)
    scaled_step = default_step if step is None else step / float(scaling.time_scale)
    parts = math.ceil(float(nodes.dt.max()) / default_step)
    if parts > 1:
        path = smooth(nodes, parts)
    path = replace(path, noise_std=law.start(path.noise_std))
    return Prepared(scaling, nodes, law, path, scaled_step)


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
    nodes, path = prepared.nodes, prepared.path
    windows = Windows.of_duration(nodes, START_WINDOW).thinned(START_NODES)
    index = windows.nodes.reshape(-1)
    stages = path.stages[index]
    batch, num, dim = stages.shape
    simpson = _simpson((num - 1) // 2).to(stages)
    eye = torch.eye(dim, dtype=stages.dtype, device=stages.device)
    weights = nodes.dt[index, None, None, None] * simpson[None, None, :, None] * eye[:, None, :]
    frozen = FrozenPath(stages, eye.expand(batch, dim, dim), weights)
    model = FrozenModel.about(frozen, None, path.stages[windows.nodes, 0], nodes, windows)
    # Errors of the smoothed path add to the noise; a half more is a round allowance for them.
    noise_std = 1.5 * path.noise_std
    theta = stages.new_zeros(field.num_parameters)
    theta[field.num_weights :] = 0.05
    for _ in range(iterations if field.dissipation.num_parameters else 1):
        _, theta = model.solve(field.basis, field, theta, 1.0 / noise_std**2)
    return theta


def _simpson(parts: int) -> Tensor:
    """Weights of the composite Simpson rule on the unit interval, (2 parts + 1,)."""
    weights = torch.zeros(2 * parts + 1, dtype=torch.float64)
    for k in range(parts):
        weights[2 * k : 2 * k + 3] += torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)
    return weights / (6.0 * parts)
