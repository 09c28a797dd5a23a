"""Solving a batch of draws and initial states, with a record of those that diverged."""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.integrators import Integrator, Times, VectorField
from sympgp.rollouts import fused


def solve_rollouts(
    field: VectorField,
    x0: Float[Tensor, "draws trajectories dim"],
    times: Times,
    integrator: Integrator,
    limit: float | Float[Tensor, " dim"] | None = None,
    center: Float[Tensor, " dim"] | None = None,
) -> tuple[
    Float[Tensor, "draws trajectories time dim"],
    Bool[Tensor, "draws trajectories"],
]:
    """Carry every draw from every initial state through all times, in one batch.

    A rollout has diverged when its state at a requested time is not finite or has left the box
    ``|x - center| <= limit``; from that time on its samples are NaN. The others are unaffected.
    Nothing is read back from an accelerator except by the integrator.

    Args:
        field: ``(t, x) -> dx/dt`` for states (S, N, D); slice s belongs to draw s.
        x0: (S, N, D) states at ``times[0]``.
        times: (T,) strictly monotone.
        integrator: the method, with its step.
        limit: half widths of the box, one for all coordinates or (D,); None for no box.
        center: (D,) centre of the box; None for the origin.

    Returns:
        The samples (S, N, T, D) and which rollouts diverged (S, N).

    Raises:
        ValueError: a limit that is not positive; whatever ``integrator.solve`` refuses.

    Example:
        >>> import torch
        >>> from sympgp.integrators import RK4
        >>> growth = torch.tensor([0.1, 50.0], dtype=torch.float64).view(2, 1, 1)
        >>> x0 = torch.ones(2, 1, 2, dtype=torch.float64)
        >>> samples, diverged = solve_rollouts(
        ...     lambda t, x: growth * x, x0, [0.0, 0.5, 1.0], RK4(step=0.1), limit=100.0
        ... )
        >>> diverged.squeeze(-1).tolist()
        [False, True]
        >>> samples[1, 0, :, 0].isnan().tolist()
        [False, True, True]
    """
    if limit is not None:
        if isinstance(limit, float) and not limit > 0:
            raise ValueError(f"limit: expected a positive half width, got {limit!r}")
        if integrator.adaptive:
            field = _stopped_outside(field, limit, center)
    samples = fused.solve(field, x0, times, integrator)
    if samples is None:
        samples = integrator.solve(field, x0, times)
    if limit is None:
        inside = samples.isfinite().all(-1)
    else:
        inside = (_distance(samples, center) <= limit).all(-1)
    lost = inside.logical_not().cumsum(-1) > 0
    return samples.masked_fill(lost.unsqueeze(-1), math.nan), lost.select(-1, -1)


def _distance(x: Tensor, center: Tensor | None) -> Tensor:
    return (x if center is None else x - center).abs()


def _stopped_outside(
    field: VectorField, limit: float | Tensor, center: Tensor | None
) -> VectorField:
    """The field, fading to zero between two and three limits away from the centre.

    An adaptive method takes one step length for the whole batch, so a single rollout that runs
    away would stop all others; here it comes to rest where it counts as diverged anyway.
    """

    def stopped(t: float | Tensor, x: Tensor) -> Tensor:
        distance = (_distance(x, center) / limit).amax(-1, keepdim=True)
        return field(t, x) * (3.0 - distance).clamp(0.0, 1.0).to(x)

    return stopped
