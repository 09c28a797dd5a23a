"""Paths through the ODE and their exact derivatives, one interval at a time in parallel.

The nominal path of every window is integrated first with classical RK4 (only states). Between
neighbouring nodes the derivative of the RK4 map is then

    dz_{i+1} = A_i dz_i + sum_s W_is f_theta(z_is) dtheta,

with small matrices ``A_i`` and ``W_is`` that depend on the state Jacobians at the stages ``z_is``
only. All intervals are treated in one batch, whatever the windows, and the wide products with
the parameter Jacobian ``f_theta`` enter once; chaining them along a window gives the
sensitivities of the whole path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.fields import BoundField, FixedField, HamiltonianField, as_points
from sympgp.shooting.layout import Nodes, Windows

CHUNK_ELEMENTS = 8_000_000
"""Numbers of one sensitivity block held at a time (64 MB in float64)."""
INITIAL_VARIANCE = 25.0
"""Prior variance of each trajectory's (or frozen window's) first state, in scaled units."""


def substeps(dt: Tensor, step: float) -> Int[Tensor, "*batch"]:
    """Equal solver steps of at most ``step`` in each interval; none in an empty one."""
    return (dt / step - 1e-9).ceil().clamp(min=0).long()


class Drive(NamedTuple):
    """Inputs over intervals, linear in time between their ends, (B, m) each."""

    begin: Tensor
    end: Tensor

    @classmethod
    def over(cls, nodes: Nodes, index: Tensor) -> Drive | None:
        """Over the intervals that begin at these nodes; None without inputs."""
        if nodes.inputs is None:
            return None
        return cls(*nodes.inputs[index].unbind(-2))

    def during(self, sub: int, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At the beginning, middle and end of step ``sub`` of ``counts`` (B,) equal ones."""
        share = 1.0 / counts.clamp(min=1).to(self.begin).unsqueeze(-1)
        rise = self.end - self.begin
        at = [self.begin + (sub + part) * share * rise for part in (0.0, 0.5, 1.0)]
        return at[0], at[1], at[2]

    def signal(self, dt: Float[Tensor, " intervals"]) -> Callable[[Any], Tensor]:
        """Inputs as a function of the time since the intervals of lengths ``dt`` began."""
        rise = (self.end - self.begin) / torch.where(dt > 0, dt, 1.0).unsqueeze(-1)
        return lambda t: self.begin + t * rise


NO_DRIVE = (None, None, None)


def _rk4(
    field: BoundField,
    z: Tensor,
    h: Tensor,
    u: tuple[Tensor | None, Tensor | None, Tensor | None] = NO_DRIVE,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One classical Runge-Kutta step of sizes ``h`` (B, 1); also the points of its four stages."""
    half = 0.5 * h
    p1 = as_points(z, u[0])
    k1 = field(0.0, p1)
    p2 = as_points(torch.addcmul(z, half, k1), u[1])
    k2 = field(0.0, p2)
    p3 = as_points(torch.addcmul(z, half, k2), u[1])
    k3 = field(0.0, p3)
    p4 = as_points(torch.addcmul(z, h, k3), u[2])
    k4 = field(0.0, p4)
    slope = torch.add(k1 + k4, k2 + k3, alpha=2.0)
    return torch.addcmul(z, h, slope, value=1.0 / 6.0), (p1, p2, p3, p4)


def nominal_path(
    field: BoundField,
    z0: Float[Tensor, "*draws windows dim"],
    nodes: Nodes,
    windows: Windows,
    step: float,
) -> tuple[Float[Tensor, "*draws windows slots dim"], Float[Tensor, "*draws windows dim"]]:
    """Integrate every window: the states at its nodes and at its end (the next one's start)."""
    dt = nodes.dt[windows.nodes]
    counts = substeps(dt, step)
    sizes = dt / counts.clamp(min=1)
    most = counts.max(0).values.tolist()
    uniform = (counts == counts[:1]).all(0).tolist()
    z, states = z0, []
    for slot, num in enumerate(most):
        states.append(z)
        h = sizes[:, slot, None]
        drive = Drive.over(nodes, windows.nodes[:, slot])
        for sub in range(num):
            active = h if uniform[slot] else torch.where(counts[:, slot, None] > sub, h, 0.0)
            u = NO_DRIVE if drive is None else drive.during(sub, counts[:, slot])
            z, _ = _rk4(field, z, active, u)
    return torch.stack(states, -2), z


class FrozenPath(NamedTuple):
    """Intervals of a fixed path, ready to be multiplied by any parameter Jacobian.

    Attributes:
        stages: (B, Q, D + m) points at the solver's stages: states, and inputs where there are any.
        transition: (B, D, D), ``A_i``.
        weights: (B, D, Q, D), ``W_is``.
    """

    stages: Float[Tensor, "batch stages width"]
    transition: Float[Tensor, "batch dim dim"]
    weights: Float[Tensor, "batch dim stages dim"]

    def response(self, stage_values: Float[Tensor, "batch stages dim params"]) -> Tensor:
        """``sum_s W_is v_is``: (B, D, P)."""
        batch, dim, num = self.weights.shape[:3]
        left = self.weights.reshape(batch, dim, num * dim)
        return left @ stage_values.reshape(batch, num * dim, -1)

    def merged(self) -> FrozenPath:
        """About half as many stages: those that RK4 puts at nearly the same place become one.

        The two middle stages of a step are joined at their mean state, the last one with the
        first of the next step; their weights add up.
        """
        batch, dim, num = self.weights.shape[:3]
        z = self.stages.unflatten(1, (num // 4, 4))
        w = self.weights.reshape(batch, dim, num // 4, 4, dim)
        middle, weight = 0.5 * (z[:, :, 1] + z[:, :, 2]), w[:, :, :, 1] + w[:, :, :, 2]
        edges = torch.cat([z[:, :, 0], z[:, -1:, 3]], 1)
        none = torch.zeros_like(w[:, :, :1, 0])
        borders = torch.cat([w[:, :, :, 0], none], 2) + torch.cat([none, w[:, :, :, 3]], 2)
        return FrozenPath(
            torch.cat([edges, middle], 1), self.transition, torch.cat([borders, weight], 2)
        )


def freeze(
    field: HamiltonianField | FixedField,
    theta: Float[Tensor, " params"],
    z: Float[Tensor, "batch dim"],
    dt: Float[Tensor, " batch"],
    step: float,
    drive: Drive | None = None,
) -> FrozenPath:
    """Differentiate the RK4 map of each interval that starts at ``z`` and lasts ``dt``.

    Inputs are those of each interval, where there are any.
    """
    bound = field.bind(theta)
    counts = substeps(dt, step)
    h = (dt / counts.clamp(min=1)).unsqueeze(-1)
    num = max(1, int(counts.max()))
    stages: list[Tensor] = []
    sizes: list[Tensor] = []
    for sub in range(num):
        active = torch.where(counts.unsqueeze(-1) > sub, h, 0.0)
        u = NO_DRIVE if drive is None else drive.during(sub, counts)
        z, inner = _rk4(bound, z, active, u)
        stages.extend(inner)
        sizes.append(active.unsqueeze(-1))
    states = torch.stack(stages, 1)
    batch, dim = z.shape
    jacobians = field.jacobian(states.flatten(0, 1), theta).reshape(batch, -1, dim, dim)
    identity = torch.eye(dim, dtype=z.dtype, device=z.device)
    transition = identity.expand(batch, dim, dim)
    weights: list[Tensor] = []
    for sub in reversed(range(num)):
        size = sizes[sub]
        a1, a2, a3, a4 = jacobians[:, 4 * sub : 4 * sub + 4].unbind(1)
        x3 = 2.0 * identity + size * a4
        x2 = 2.0 * identity + 0.5 * size * (x3 @ a3)
        x1 = identity + 0.5 * size * (x2 @ a2)
        later = transition * (size / 6.0)
        weights[:0] = [later @ x1, later @ x2, later @ x3, later]
        transition = transition + later @ (x1 @ a1 + x2 @ a2 + x3 @ a3 + a4)
    return FrozenPath(states, transition, torch.stack(weights, 2))


def chain_sensitivities(
    transition: Float[Tensor, "windows slots dim dim"],
    response: Float[Tensor, "windows slots dim params"] | None,
    start: Float[Tensor, "windows dim params"],
) -> tuple[Float[Tensor, "windows slots dim params"], Float[Tensor, "windows dim params"]]:
    """``S_{i+1} = A_i S_i + B_i``: sensitivities before each interval, and at the end.

    Without a response, ``B_i = 0``: those with respect to the window's start.
    """
    current, states = start, []
    for slot in range(transition.shape[1]):
        states.append(current)
        if response is None:
            current = transition[:, slot] @ current
        else:
            current = torch.baddbmm(response[:, slot], transition[:, slot], current)
    return torch.stack(states, 1), current


@dataclass(frozen=True)
class Linearization:
    """Gram matrices of the linearised residuals, channel by channel and not yet weighted.

    The rows are ``[dz_0 (D), dtheta (P), residual (1)]`` with residual = prediction - data.

    Attributes:
        shared: (D, P + 1, P + 1) sums over all windows of the ``[theta, residual]`` part.
        local: (D, W, D, D + P + 1) the window's start against everything.
        end: (W, D, D + P) derivative of each window's end state.
    """

    shared: Float[Tensor, "dim cols cols"]
    local: Float[Tensor, "dim windows dim all"]
    end: Float[Tensor, "windows dim rest"]


def linearize(
    field: HamiltonianField | FixedField,
    theta: Float[Tensor, " params"],
    path: Float[Tensor, "windows slots dim"],
    nodes: Nodes,
    windows: Windows,
    step: float,
) -> Linearization:
    """Gram matrices of all observations about the nominal path, in blocks of bounded memory."""
    num_windows, num_slots, dim = path.shape
    params = field.num_parameters
    width = dim + params + 1
    shared = path.new_zeros(dim, params + 1, params + 1)
    local = path.new_zeros(dim, num_windows, dim, width)
    end = path.new_zeros(num_windows, dim, dim + params)
    stages = 4 * max(1, int(substeps(nodes.dt.max(), step)))
    room = max(1, CHUNK_ELEMENTS // (dim * width * stages))
    rows = max(1, min(num_windows, room // num_slots))
    slots = max(1, min(num_slots, room // rows))
    for top in range(0, num_windows, rows):
        part = slice(top, min(top + rows, num_windows))
        count = part.stop - part.start
        identity = torch.eye(dim, dtype=path.dtype, device=path.device)
        moved, current = identity.expand(count, dim, dim), path.new_zeros(count, dim, params)
        for left in range(0, num_slots, slots):
            block = windows.nodes[part, left : left + slots]
            z = path[part, left : left + slots]
            index = block.reshape(-1)
            drive = Drive.over(nodes, index)
            frozen = freeze(field, theta, z.reshape(-1, dim), nodes.dt[index], step, drive)
            response = field.weighted_parameter_jacobian(frozen.stages, frozen.weights, theta)
            shape = (count, block.shape[1], dim)
            transition = frozen.transition.reshape(*shape, dim)
            state, moved = chain_sensitivities(transition, None, moved)
            before, current = chain_sensitivities(transition, response.reshape(*shape, -1), current)
            residual = (z - nodes.values[block]).unsqueeze(-1)
            full = torch.cat([state, before, residual], -1)
            add_gram(full * nodes.weights[block].sqrt().unsqueeze(-1), shared, local[:, part])
        end[part] = torch.cat([moved, current], -1)
    return Linearization(shared, local, end)


def add_gram(rows: Tensor, shared: Tensor, local: Tensor) -> None:
    """Add the Gram matrices of rows (W, L, D, D + P + 1) to both sums, channel by channel."""
    dim = rows.shape[2]
    for channel in range(dim):
        part = rows[:, :, channel]
        wide = part[..., dim:].reshape(-1, shared.shape[-1])
        shared[channel].addmm_(wide.mT, wide)
        local[channel] += part[..., :dim].mT @ part
