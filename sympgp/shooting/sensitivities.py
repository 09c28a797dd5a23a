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
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.fields import (
    BoundField,
    FieldDerivatives,
    FixedField,
    HamiltonianField,
    as_points,
    gathered_response,
    local_derivatives,
    rate_and_jacobian,
)
from sympgp.shooting.layout import Nodes, Windows

CHUNK_ELEMENTS = 8_000_000
"""Numbers of the sensitivities, or of a path's features, that are held at a time (64 MB in
float64) where each operation has its price."""
CACHED_ELEMENTS = 2**21
"""The same on a CPU (16 MB): few enough to stay in its cache, many enough for its full speed."""
SMALLEST = 64
"""Windows that a path is followed in together, however wide they are."""
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
    field: Callable[[float, Tensor], Tensor],
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
    index, width = windows.nodes, field.theta.shape[-1] * max(1, z0.shape[:-2].numel())
    most = CACHED_ELEMENTS if z0.device.type == "cpu" else CHUNK_ELEMENTS
    size = max(SMALLEST, most // (8 * max(1, width)))
    parts = zip(z0.split(size, -2), index.split(size), strict=True)
    found = [_path(field, start, nodes, own, step) for start, own in parts]
    if len(found) == 1:
        return found[0]
    return torch.cat([path for path, _ in found], -3), torch.cat([end for _, end in found], -2)


def _path(
    field: BoundField, z: Tensor, nodes: Nodes, index: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """States at the nodes ``index`` (W, L) of some windows, and at their ends."""
    dt = nodes.dt[index]
    counts = substeps(dt, step)
    sizes = dt / counts.clamp(min=1)
    most = counts.max(0).values.tolist()
    uniform = (counts == counts[:1]).all(0).tolist()
    states = []
    for slot, num in enumerate(most):
        states.append(z)
        h = sizes[:, slot, None]
        drive = Drive.over(nodes, index[:, slot])
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
    return _freeze(field, theta, z, dt, step, drive, False)[0]


def interval_derivatives(
    field: HamiltonianField | FixedField,
    theta: Float[Tensor, " params"],
    z: Float[Tensor, "batch dim"],
    dt: Float[Tensor, " batch"],
    step: float,
    drive: Drive | None = None,
) -> tuple[Float[Tensor, "batch dim dim"], Float[Tensor, "batch dim params"]]:
    """Derivatives of the RK4 map of each interval by its start and by the parameters.

    The latter, which are many, are in the type that the field is computed in. A field of which
    nothing is left to find has none.
    """
    if not field.num_parameters:
        frozen = freeze(field, theta, z, dt, step, drive)
        return frozen.transition, z.new_zeros(*z.shape, 0, dtype=field.dtype)
    frozen, known = _freeze(field, theta, z, dt, step, drive, True)
    own = [part.to(field.dtype) for part in (frozen.stages, frozen.weights, theta)]
    if known:
        response = gathered_response(field, known, *own)
    else:
        response = field.weighted_parameter_jacobian(*own)
    return frozen.transition, response


def _freeze(
    field: HamiltonianField | FixedField,
    theta: Tensor,
    z: Tensor,
    dt: Tensor,
    step: float,
    drive: Drive | None,
    keep: bool,
) -> tuple[FrozenPath, list[FieldDerivatives]]:
    """Frozen intervals; and what the field's derivatives at each stage share, if it is kept."""
    bound = field.bind(theta)
    shares = bound.family.basis.shares
    counts = substeps(dt, step)
    h = (dt / counts.clamp(min=1)).unsqueeze(-1)
    num = max(1, int(counts.max()))
    known: list[FieldDerivatives] = []
    jacobians: list[Tensor] = []

    def rate(t: float, point: Tensor) -> Tensor:
        if shares and keep:
            known.append(local_derivatives(bound, point))
            jacobians.append(known[-1].jacobian)
            return known[-1].rate
        both = rate_and_jacobian(bound, point) if shares else None
        if both is None:
            return bound(t, point)
        jacobians.append(both[1])
        return both[0]

    stages: list[Tensor] = []
    sizes: list[Tensor] = []
    for sub in range(num):
        active = torch.where(counts.unsqueeze(-1) > sub, h, 0.0)
        u = NO_DRIVE if drive is None else drive.during(sub, counts)
        z, inner = _rk4(rate, z, active, u)
        stages.extend(inner)
        sizes.append(active.unsqueeze(-1))
    states = torch.stack(stages, 1)
    batch, dim = z.shape
    if jacobians:
        slopes = torch.stack(jacobians, 1)
    else:
        slopes = field.jacobian(states.flatten(0, 1), theta).reshape(batch, -1, dim, dim)
    return FrozenPath(states, *_rk4_derivatives(slopes, sizes)), known


def _rk4_derivatives(
    jacobians: Float[Tensor, "batch stages dim dim"], sizes: list[Tensor]
) -> tuple[Float[Tensor, "batch dim dim"], Float[Tensor, "batch dim stages dim"]]:
    """``A_i`` and ``W_is`` of steps of these sizes (B, 1, 1), from the Jacobians at the stages."""
    batch, _, dim, _ = jacobians.shape
    identity = torch.eye(dim, dtype=jacobians.dtype, device=jacobians.device)
    transition = identity.expand(batch, dim, dim)
    weights: list[Tensor] = []
    for sub in reversed(range(len(sizes))):
        size = sizes[sub]
        a1, a2, a3, a4 = jacobians[:, 4 * sub : 4 * sub + 4].unbind(1)
        x3 = 2.0 * identity + size * a4
        x2 = 2.0 * identity + 0.5 * size * (x3 @ a3)
        x1 = identity + 0.5 * size * (x2 @ a2)
        later = transition * (size / 6.0)
        weights[:0] = [later @ x1, later @ x2, later @ x3, later]
        transition = transition + later @ (x1 @ a1 + x2 @ a2 + x3 @ a3 + a4)
    return transition, torch.stack(weights, 2)


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
