"""Window states given each of many draws of the field, linearised about that draw's own paths.

The states that come with a Gaussian posterior are linear in the field's parameters. A draw far
from the mode bends its paths more than that, and jumps that the data hardly allow notice. Here
the states of every draw are found anew: one Gauss-Newton step from the linear ones, the Gaussians
of that linearisation, and draws of them that follow the field exactly from window to window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.fields import as_points
from sympgp.shooting.density import JointDensity
from sympgp.shooting.elimination import Chain, eliminate
from sympgp.shooting.layout import Windows
from sympgp.shooting.sensitivities import (
    INITIAL_VARIANCE,
    NO_DRIVE,
    Drive,
    nominal_path,
    substeps,
)

ELEMENTS = 1_000_000
"""Numbers of one block of features held at a time (8 MB in float64)."""


class Settled(NamedTuple):
    """States given each draw of the field and the noise, scaled units.

    Attributes:
        start: (S, W, D) drawn.
        log_marginal: (S,) ``log p(y, theta, sigma)`` with the states integrated out: exact where
            paths are linear in their first states, Laplace's approximation elsewhere.
        mean, variance: (S, n_obs) of what is observed, given the draw and all data; order
            trajectory, time, coordinate, missing ones left out.
    """

    start: Float[Tensor, "draws windows dim"]
    log_marginal: Float[Tensor, " draws"]
    mean: Float[Tensor, "draws observations"]
    variance: Float[Tensor, "draws observations"]


def settle(
    density: JointDensity,
    theta: Float[Tensor, "draws params"],
    noise_std: Float[Tensor, "draws dim"],
    start: Float[Tensor, "draws windows dim"],
    white: Float[Tensor, "draws windows dim"],
) -> Settled:
    """Draw the window states given each draw of the field and the noise, and integrate them out.

    Args:
        density: the data and the model.
        theta: (S, P + K).
        noise_std: (S, D).
        start: (S, W, D) about which states to linearise, near the most probable ones.
        white: (S, W, D) standard normal numbers.
    """
    size = max(1, ELEMENTS // (density.field.num_parameters * start.shape[1]))
    parts = []
    for own, std, begin, numbers in zip(
        *(x.split(size) for x in (theta, noise_std, start, white)), strict=True
    ):
        about = _Linearized.about(density, own, std, begin)
        centre = about.guided(density, own, about.sample(torch.zeros_like(numbers)))
        path, _, _ = density.paths(own, centre)
        parts.append(
            Settled(
                about.guided(density, own, about.sample(numbers)),
                density.log_prob(own, std, centre) + about.log_volume(),
                observed(density, path),
                observed(density, about.variances()),
            )
        )
    return Settled(*(torch.cat(column) for column in zip(*parts, strict=True)))


def observed(
    density: JointDensity, values: Float[Tensor, "draws windows slots dim"]
) -> Float[Tensor, "draws observations"]:
    """Entries of all windows at which there is an observation, in the order of the data."""
    mask = density.nodes.mask
    by_node = values.new_zeros(len(values), *mask.shape)
    by_node[:, density.windows.nodes.flatten()] = values.flatten(1, 2)
    return by_node[:, mask]


@dataclass(frozen=True)
class _Linearized:
    """Gaussians of every draw's window states; the windows of all draws are treated as one set.

    Attributes:
        windows: of all draws, one draw after another.
        start: (S, W, D) about which.
        end: (S, W, D) where the windows' paths end.
        levers: (S, W, L, D, D) derivatives of the states at the nodes.
        transition: (S, W, D, D) derivative of ``end``.
        chain: the states eliminated, as deviations from ``start``.
        cov: (S, W, D, D) of each state given all data.
    """

    windows: Windows
    start: Tensor
    end: Tensor
    levers: Tensor
    transition: Tensor
    chain: Chain
    cov: Tensor

    @classmethod
    def about(
        cls, density: JointDensity, theta: Tensor, noise_std: Tensor, start: Tensor
    ) -> _Linearized:
        """Integrate the states with their derivatives, and eliminate the windows."""
        windows = _tiled(density.windows, len(theta))
        data = _DataGram(density, noise_std)
        rate = _rate(density, theta)
        dt = density.nodes.dt[density.windows.nodes]
        counts = substeps(dt, density.step)
        sizes = dt / counts.clamp(min=1)
        z = start
        moved = torch.eye(start.shape[-1]).to(start).expand(*start.shape, -1)
        levers = []
        for slot, num in enumerate(counts.max(0).values.tolist()):
            data.add(slot, z, moved)
            levers.append(moved)
            drive = Drive.over(density.nodes, density.windows.nodes[:, slot])
            for sub in range(num):
                active = torch.where(counts[:, slot] > sub, sizes[:, slot], 0.0)
                u = NO_DRIVE if drive is None else drive.during(sub, counts[:, slot])
                z, moved = _tangent_step(rate, z, moved, active[:, None], u)
        kept = data.gradient.isfinite().all(-1) & moved.isfinite().all(-1).all(-1)
        lost = ~kept.all(1)[:, None, None]
        end, transition = z.masked_fill(lost, 0.0), moved.masked_fill(lost[..., None], 0.0)
        here, ahead = density.following()
        jump = torch.zeros_like(end)
        jump[:, here] = end[:, here] - start[:, ahead]
        gradient = data.gradient.masked_fill(lost, 0.0).flatten(0, 1)
        chain = eliminate(
            windows,
            data.hessian.masked_fill(lost[..., None], 0.0).flatten(0, 1),
            gradient.new_zeros(*gradient.shape, 0),
            gradient,
            transition.flatten(0, 1),
            jump.flatten(0, 1),
            torch.full_like(noise_std[0], density.defect_std**2),
            -start[:, density.windows.chain[:, 0]].flatten(0, 1),
            INITIAL_VARIANCE,
        )
        cov = chain.smooth(windows)[2].view_as(transition)
        return cls(windows, start, end, torch.stack(levers, 2), transition, chain, cov)

    def sample(self, white: Tensor) -> Tensor:
        """States (S, W, D) of the linear chains from standard normal numbers."""
        values, vectors = torch.linalg.eigh(self.chain.cov)
        root = vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)
        moved = self.chain.mean + (root @ white.flatten(0, 1).unsqueeze(-1)).squeeze(-1)
        for here, after in reversed(_pairs(self.windows)):
            off = (moved[after] - self.chain.ahead_mean[here]).unsqueeze(-1)
            moved[here] = moved[here] + (self.chain.gain[here] @ off).squeeze(-1)
        return self.start + moved.view_as(white)

    def log_volume(self) -> Tensor:
        """``log integral q / q(mode)`` of each draw's Gaussian q, (S,)."""
        windows, dim = self.start.shape[1:]
        logdet = torch.linalg.slogdet(self.chain.cov).logabsdet.reshape(-1, windows)
        return 0.5 * (logdet + dim * math.log(2.0 * math.pi)).sum(1)

    def variances(self) -> Tensor:
        """Of the states at the nodes given all data, (S, W, L, D)."""
        return ((self.levers @ self.cov.unsqueeze(2)) * self.levers).sum(-1)

    def guided(self, density: JointDensity, theta: Tensor, straight: Tensor) -> Tensor:
        """Draws of the linear chains bent along the exact paths, without a change of volume.

        Given ``z_k`` the linear chain has ``z_{k+1} = K (e_k + Phi_k (z_k - s_k)) + rest`` with
        ``K = (1 + d^2 L)^-1``, where the jumps' variance ``d^2`` meets what the data from there on
        know, ``L``. The exact end of the window takes the place of its linearisation: a map that
        is triangular with a unit diagonal, so that densities stay what they were.
        """
        windows, states = density.windows, straight.clone()
        if windows.joined:
            return states
        known = torch.linalg.inv(self.cov)
        expected = torch.linalg.inv(self.chain.ahead_cov).view_as(known)
        off = (straight - self.start).unsqueeze(-1)
        line = self.end + (self.transition @ off).squeeze(-1)
        bound = density.field.bind(theta)
        eye = torch.eye(straight.shape[-1]).to(straight)
        for here, after in _pairs(windows):
            part = replace(windows, start=windows.start[here], nodes=windows.nodes[here])
            _, end = nominal_path(bound, states[:, here], density.nodes, part, density.step)
            bend = (end - line[:, here]).nan_to_num(0.0, 0.0, 0.0).unsqueeze(-1)
            weight = eye + density.defect_std**2 * (known[:, after] - expected[:, here])
            states[:, after] = states[:, after] + torch.linalg.solve(weight, bend).squeeze(-1)
        return states


class _DataGram:
    """Gradient and Gauss-Newton matrix of the data by window, summed slot by slot."""

    def __init__(self, density: JointDensity, noise_std: Tensor) -> None:
        draws, dim = noise_std.shape
        count = density.windows.num_windows
        self.density = density
        self.std = noise_std.unsqueeze(1)
        inflation = density.inflation
        self.inflation = torch.ones_like(noise_std[0]) if inflation is None else inflation
        self.gradient = noise_std.new_zeros(draws, count, dim)
        self.hessian = noise_std.new_zeros(draws, count, dim, dim)

    def add(self, slot: int, z: Tensor, moved: Tensor) -> None:
        """Observations at one slot, seen from states ``z`` with derivatives ``moved``."""
        nodes, noise = self.density.nodes, self.density.noise
        index = self.density.windows.nodes[:, slot]
        residual = z - nodes.values[index]
        ratio = (residual / self.std).flatten(0, 1)
        weights = noise.weights(ratio, torch.ones_like(self.inflation)).view_as(residual)
        pull = nodes.mask[index] * weights / (self.inflation * self.std**2)
        self.gradient = self.gradient + ((pull * residual).unsqueeze(-2) @ moved).squeeze(-2)
        self.hessian = self.hessian + noise.information * moved.mT @ (pull.unsqueeze(-1) * moved)


Rate = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def _rate(density: JointDensity, theta: Tensor) -> Rate:
    """``(z, M, u) -> (f(z, u), f'(z, u) M)`` of every draw."""
    field = density.field
    bound = field.bind(theta)

    def rate(z: Tensor, moved: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        known = field.linearized(as_points(z, u), theta)
        return bound.flow(0.0, as_points(z, u), known.known.slope), known.jacobian @ moved

    return rate


def _tangent_step(
    rate: Rate, z: Tensor, moved: Tensor, h: Tensor, u: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor]:
    """A classical Runge-Kutta step of states and their derivatives, exact for the step's map."""
    wide = h.unsqueeze(-1)
    k1, l1 = rate(z, moved, u[0])
    k2, l2 = rate(z + 0.5 * h * k1, moved + 0.5 * wide * l1, u[1])
    k3, l3 = rate(z + 0.5 * h * k2, moved + 0.5 * wide * l2, u[1])
    k4, l4 = rate(z + h * k3, moved + wide * l3, u[2])
    onward = z + h / 6.0 * (k1 + 2.0 * (k2 + k3) + k4)
    return onward, moved + wide / 6.0 * (l1 + 2.0 * (l2 + l3) + l4)


def _tiled(windows: Windows, draws: int) -> Windows:
    """The windows once for every draw, as if each draw had trajectories of its own."""
    shift = windows.num_windows * torch.arange(draws, device=windows.chain.device)
    chain = torch.where(windows.chain >= 0, windows.chain + shift[:, None, None], -1)
    return Windows(windows.start.repeat(draws), windows.nodes.repeat(draws, 1), chain.flatten(0, 1))


def _pairs(windows: Windows) -> list[tuple[Tensor, Tensor]]:
    """Windows at each position but the last of their trajectories, with those that follow."""
    pairs = []
    for position in range(windows.chain.shape[1] - 1):
        follows = windows.chain[:, position + 1] >= 0
        pairs.append((windows.chain[follows, position], windows.chain[follows, position + 1]))
    return pairs
