"""Differentiable paths through the ODE for a batch of draws, without a graph over the time loop.

Forward integrates every window with RK4, draw by draw in one batch, and keeps the states at the
solver's stages. Backward differentiates the RK4 map of all steps at once: costates run back through
small transition matrices, and what they say about each stage meets the field in a single
vector-Jacobian product.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sympgp.fields import DrivenField, HamiltonianField, LinearizedField
from sympgp.integrators import FixedStepIntegrator
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import CHUNK_ELEMENTS, NO_DRIVE, Drive, _rk4, substeps

BLOCK_ELEMENTS, SMALLEST_BLOCK = 500_000, 64
"""Features of all draws treated at a time, of which the processor's cache holds most, and fewest
states at a time."""
KEPT_ELEMENTS = 4 * CHUNK_ELEMENTS
"""Features that are kept rather than computed twice in a backward pass (256 MB in float64)."""
LARGEST_STATE = 1e6
"""A path that leaves this box, in scaled units, counts as diverged."""


def solve_paths(
    field: HamiltonianField,
    theta: Float[Tensor, "draws params"],
    start: Float[Tensor, "draws windows dim"],
    nodes: Nodes,
    windows: Windows,
    step: float,
    compiled: bool = False,
) -> tuple[
    Float[Tensor, "draws windows slots dim"],
    Float[Tensor, "draws windows dim"],
    Bool[Tensor, " draws"],
]:
    """Integrate every window under every draw, differentiable once in ``theta`` and ``start``.

    Values and derivatives are those of :func:`sympgp.shooting.sensitivities.nominal_path`: the
    derivative of the RK4 map, exact to rounding.

    Args:
        field: the family that rows of ``theta`` are draws from.
        theta: (S, P + K).
        start: (S, W, D) first state of each window.
        nodes: the data's times.
        windows: which nodes each window owns.
        step: longest solver step.
        compiled: whether to compile the field that is followed forwards.

    Returns:
        States at the nodes of each window, states at its end, and which draws (S,) stayed
        finite. Paths of the others are zero, and no gradient flows through them.
    """
    path, end, alive = _Paths.apply(theta, start, field, nodes, windows, step, compiled)
    return path, end, alive


def recorded_paths(
    integrator: FixedStepIntegrator,
    field: HamiltonianField,
    theta: Float[Tensor, "draws params"],
    start: Float[Tensor, "draws windows dim"],
    nodes: Nodes,
    windows: Windows,
    step: float,
) -> tuple[
    Float[Tensor, "draws windows slots dim"],
    Float[Tensor, "draws windows dim"],
    Bool[Tensor, " draws"],
]:
    """As :func:`solve_paths` by any method of fixed steps, every step recorded by autograd."""
    bound = field.bind(theta)
    dt = nodes.dt[windows.nodes]
    counts = substeps(dt, step)
    sizes = dt / counts.clamp(min=1)
    alive = torch.ones(len(theta), dtype=torch.bool, device=theta.device)
    z, states = start, []
    for slot, num in enumerate(counts.max(0).values.tolist()):
        states.append(z)
        drive = Drive.over(nodes, windows.nodes[:, slot])
        rate = bound if drive is None else DrivenField(bound, drive.signal(dt[:, slot]))
        for sub in range(num):
            h = torch.where(counts[:, slot] > sub, sizes[:, slot], 0.0).unsqueeze(-1)
            z = integrator.advance(rate, sub * h, z, h)
            # A lost draw rests at the origin, where no derivative can break down.
            alive = alive & (z.detach().abs().amax((1, 2)) < LARGEST_STATE)
            z = torch.where(alive.view(-1, 1, 1), z, 0.0)
    path = torch.stack(states, -2)
    lost = ~alive.view(-1, 1, 1)
    return path.masked_fill(lost.unsqueeze(-1), 0.0), z.masked_fill(lost, 0.0), alive


class _Paths(torch.autograd.Function):
    """See :func:`solve_paths`."""

    @staticmethod
    def forward(
        ctx: Any,
        theta: Tensor,
        start: Tensor,
        field: HamiltonianField,
        nodes: Nodes,
        windows: Windows,
        step: float,
        compiled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        bound = field.bind(theta).compiled() if compiled else field.bind(theta)
        dt = nodes.dt[windows.nodes]
        counts = substeps(dt, step)
        sizes = dt / counts.clamp(min=1)
        z, states = start, []
        stages: list[Tensor] = []
        lengths: list[Tensor] = []
        first: list[int] = []
        for slot, num in enumerate(counts.max(0).values.tolist()):
            states.append(z)
            first.append(len(stages))
            drive = Drive.over(nodes, windows.nodes[:, slot])
            for sub in range(num):
                h = torch.where(counts[:, slot] > sub, sizes[:, slot], 0.0).unsqueeze(-1)
                u = NO_DRIVE if drive is None else drive.during(sub, counts[:, slot])
                z, inner = _rk4(bound, z, h, u)
                stages.append(torch.stack(inner, -2))
                lengths.append(h)
        path = torch.stack(states, -2)
        alive = (path.abs().amax((1, 2, 3)) < LARGEST_STATE) & (
            z.abs().amax((1, 2)) < LARGEST_STATE
        )
        lost = ~alive.view(-1, 1, 1)
        if _masks(lost):
            path, z = path.masked_fill(lost.unsqueeze(-1), 0.0), z.masked_fill(lost, 0.0)
        ctx.mark_non_differentiable(alive)
        ctx.field, ctx.first, ctx.lost = field, first, lost
        empty = start.new_zeros(*start.shape[:2], 0, 4, start.shape[-1] + field.num_extra)
        every = torch.stack(stages, 2) if stages else empty
        size = torch.stack(lengths) if lengths else start.new_zeros(0, start.shape[1], 1)
        ctx.save_for_backward(theta, every, size)
        return path, z, alive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_path, by_end, _ = gradients
        theta, stages, sizes = ctx.saved_tensors
        lost, field, first = ctx.lost, ctx.field, ctx.first
        by_path = by_path.masked_fill(lost.unsqueeze(-1), 0.0)
        costate = by_end.masked_fill(lost, 0.0)
        stages = stages.masked_fill(lost[..., None, None], 0.0)
        draws, windows, steps = stages.shape[:3]
        dim = costate.shape[-1]
        frozen = _Frozen(field, theta, stages.flatten(1, 3))
        jacobian = frozen.jacobian.reshape(draws, windows, steps, 4, dim, dim)
        jacobian = jacobian.permute(2, 0, 1, 3, 4, 5)
        transition = _transitions(jacobian, sizes)
        after: list[Tensor] = [costate] * steps
        edges = [*first, steps]
        for slot in reversed(range(len(first))):
            for k in reversed(range(edges[slot], edges[slot + 1])):
                after[k] = costate
                costate = (costate.unsqueeze(-2) @ transition[k]).squeeze(-2)
            costate = costate + by_path[:, :, slot]
        by_theta = None
        if ctx.needs_input_grad[0] and steps:
            pulls = _pulls(jacobian, sizes, torch.stack(after))
            pulls = pulls.permute(1, 2, 0, 3, 4).reshape(draws, -1, dim)
            by_theta = frozen.pull_back(pulls)
        elif ctx.needs_input_grad[0]:
            by_theta = torch.zeros_like(theta)
        if _masks(lost):
            costate = costate.masked_fill(lost, 0.0)
            by_theta = None if by_theta is None else by_theta.masked_fill(lost[:, 0], 0.0)
        return by_theta, costate, None, None, None, None, None


def _masks(lost: Tensor) -> bool:
    """Whether to mask: where something is lost, or where looking would stall an accelerator."""
    return lost.device.type != "cpu" or bool(lost.any())


class _Frozen:
    """The field of every draw linearised at its own states."""

    def __init__(
        self,
        field: HamiltonianField,
        theta: Float[Tensor, "draws params"],
        points: Float[Tensor, "draws batch width"],
    ) -> None:
        self.field, self.theta = field, theta
        self.size = max(SMALLEST_BLOCK, BLOCK_ELEMENTS // theta.numel())
        keep = theta.numel() * points.shape[1] <= KEPT_ELEMENTS
        # Points with what is known of the field there, where that may be kept.
        self.blocks: list[tuple[Tensor, LinearizedField | None]] = []
        parts = []
        for block in points.split(self.size, 1):
            known = field.linearized(block, theta)
            parts.append(known.jacobian)
            self.blocks.append((block, known if keep else None))
        self.jacobian = torch.cat(parts, 1)

    def pull_back(self, pulls: Float[Tensor, "draws batch dim"]) -> Float[Tensor, "draws params"]:
        """``sum_b v_b . df/dtheta(z_b)`` of each draw."""
        total = torch.zeros_like(self.theta)
        for (block, known), pull in zip(self.blocks, pulls.split(self.size, 1), strict=True):
            if known is None:
                known = self.field.linearized(block, self.theta)
            total = total + known.pull_back(pull)
        return total


def _transitions(
    jacobian: Float[Tensor, "steps draws windows 4 dim dim"],
    sizes: Float[Tensor, "steps windows 1"],
) -> Float[Tensor, "steps draws windows dim dim"]:
    """Derivative of each step's end with respect to its beginning."""
    a1, a2, a3, a4 = jacobian.unbind(3)
    h = sizes[:, None, :, :, None]
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    k2 = a2 @ (eye + 0.5 * h * a1)
    k3 = a3 @ (eye + 0.5 * h * k2)
    k4 = a4 @ (eye + h * k3)
    return eye + h / 6.0 * (a1 + 2.0 * k2 + 2.0 * k3 + k4)


def _pulls(
    jacobian: Float[Tensor, "steps draws windows 4 dim dim"],
    sizes: Float[Tensor, "steps windows 1"],
    costate: Float[Tensor, "steps draws windows dim"],
) -> Float[Tensor, "steps draws windows 4 dim"]:
    """Derivative of the objective with respect to each stage's rate of change."""
    h = sizes.unsqueeze(1)
    _, a2, a3, a4 = jacobian.unbind(3)

    def back(pull: Tensor, matrix: Tensor) -> Tensor:
        return (pull.unsqueeze(-2) @ matrix).squeeze(-2)

    p4 = h / 6.0 * costate
    p3 = 2.0 * p4 + h * back(p4, a4)
    p2 = 2.0 * p4 + 0.5 * h * back(p3, a3)
    p1 = p4 + 0.5 * h * back(p2, a2)
    return torch.stack([p1, p2, p3, p4], -2)
