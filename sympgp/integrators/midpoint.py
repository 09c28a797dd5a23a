"""The implicit midpoint rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.integrators.base import FixedStepIntegrator, Step, VectorField, combine

_MIXING_MEMORY = 4
"""Differences kept by the mixing: two solve a linear problem in a plane, more cost more."""

_DEPENDENT = 1e-3
"""A difference within this relative distance of the span of newer ones is not used."""

_ROUND_OFF = 100.0
"""A residual that has stopped falling within this factor of the tolerance is round-off."""


@dataclass(frozen=True)
class ImplicitMidpoint(FixedStepIntegrator):
    """The implicit midpoint rule ``x' = x + h f(t + h/2, (x + x') / 2)``: order 2, symplectic.

    It keeps quadratic invariants exactly and the energy of a conservative system near its start
    for very long times (Hairer, Lubich, Wanner, *Geometric Numerical Integration*, VI.4 and
    IX.8), for any energy, separable or not; it is also its own inverse under ``h -> -h``.

    The midpoint ``m = x + h/2 f(m)`` is found from an explicit half step by a fixed-point
    iteration with Anderson mixing, which no Jacobian is needed for. It ends for every batch
    member separately, at the round-off of its own coordinates: a member with
    ``|residual| <= tolerance * (|x| + |m - x|)`` in every coordinate is left alone. A member that
    does not get near becomes NaN; its remedy is a shorter step (the iteration wants ``h`` times
    the field's Lipschitz constant below about 2). Where gradients are recorded the plain
    iteration is used, whose derivatives converge with it.

    Attributes:
        step: no step is longer than this.
        tolerance: relative residual to reach; at least a few units of round-off are allowed.
        max_iterations: evaluations of the midpoint after which a member counts as failed.

    Example:
        >>> import torch
        >>> def field(t, x):
        ...     return torch.stack([x[..., 1], -x[..., 0]], -1)
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> x = ImplicitMidpoint(step=0.1).solve(field, x0, [0.0, 50.0])[-1]
        >>> f"{x.square().sum():.9f}"
        '1.000000000'
    """

    tolerance: float = 1e-12
    max_iterations: int = 50

    order: ClassVar[int] = 2
    symplectic: ClassVar[bool] = True
    needs_separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance: expected a number in (0, 1), got {self.tolerance!r}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations: expected at least 1, got {self.max_iterations!r}")

    def advance(
        self, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
    ) -> Float[Tensor, "*batch dim"]:
        """States at ``t + h`` from states at ``t``; NaN where the iteration did not converge."""
        midpoint = combine(x, h, (0.5,), [field(t, x)])
        recorded = torch.is_grad_enabled() and midpoint.requires_grad
        mixing = _AndersonMixing(0 if recorded else min(x.shape[-1], _MIXING_MEMORY))
        monitor = _Convergence(x.detach(), midpoint.detach(), self.tolerance)
        # Reading a result back stalls an accelerator: look at every third iteration only.
        stride = 1 if x.device.type == "cpu" else 3
        for iteration in range(1, self.max_iterations + 1):
            rate = field(t + 0.5 * h, midpoint)
            image = combine(x, h, (0.5,), [rate])
            residual = image - midpoint
            weighted = residual * monitor.weight
            monitor.update(residual.detach(), weighted.detach())
            last = iteration == self.max_iterations
            if last or (iteration % stride == 0 and monitor.all_settled()):
                break
            proposal = mixing.propose(image, weighted)
            midpoint = torch.where(monitor.settled, midpoint, proposal)
        return combine(x, h, (1.0,), [rate]).masked_fill(monitor.failed(), math.nan)


class _AndersonMixing:
    """Anderson mixing for ``m = g(m)`` in a batch of small problems (Anderson 1965).

    With residuals ``r = g(m) - m``, the next iterate is ``g - sum_j c_j dg_j`` where the ``c_j``
    minimise ``|r - sum_j c_j dr_j|`` over the latest differences, residuals given relative to
    the sizes of the coordinates; done by Gram-Schmidt from the newest difference to the oldest,
    so that no small systems have to be solved.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.previous: tuple[Tensor, Tensor] | None = None
        self.differences: list[tuple[Tensor, Tensor]] = []

    def propose(self, image: Tensor, residual: Tensor) -> Tensor:
        """The next iterate from ``g(m)`` and the weighted ``g(m) - m``."""
        if self.memory == 0:
            return image
        if self.previous is not None:
            newest = (image - self.previous[0], residual - self.previous[1])
            self.differences = [newest, *self.differences[: self.memory - 1]]
        self.previous = (image, residual)
        proposal = image
        basis: list[tuple[Tensor, Tensor]] = []
        for dg, dr in self.differences:
            length = _dot(dr, dr)
            for bg, br in basis:
                overlap = _dot(br, dr)
                dg, dr = torch.addcmul(dg, overlap, bg, value=-1.0), dr - overlap * br
            left = _dot(dr, dr)
            scale = torch.where(left > _DEPENDENT**2 * length, left.rsqrt(), 0.0)
            dg, dr = dg * scale, dr * scale
            basis.append((dg, dr))
            proposal = torch.addcmul(proposal, _dot(dr, residual), dg, value=-1.0)
        return proposal


class _Convergence:
    """Which members of a batch of midpoint iterations have settled, and which failed.

    A residual is judged coordinate by coordinate, so that units do not matter. Only where it has
    stopped falling is it compared with the largest coordinate: a coordinate at rest never falls
    below the round-off that others bring into its rate.

    Attributes:
        weight: (..., D) inverse sizes of the coordinates.
        residual: (..., 1) largest weighted residual.
        settled: (..., 1) members whose iterate stays as it is.
        small: (..., 1) members whose residual is round-off of their largest coordinate.
    """

    def __init__(self, x: Tensor, midpoint: Tensor, tolerance: float) -> None:
        self.tolerance = max(tolerance, 4 * torch.finfo(x.dtype).eps)
        size = x.abs() + (midpoint - x).abs() + torch.finfo(x.dtype).tiny
        self.weight = size.reciprocal()
        largest = size.amax(-1, keepdim=True)
        self.accepted = _ROUND_OFF * self.tolerance * largest
        self.residual = torch.full_like(largest, math.inf)
        self.settled = torch.zeros_like(largest, dtype=torch.bool)
        self.small = self.settled

    def update(self, residual: Tensor, weighted: Tensor) -> None:
        """Take in the latest residual; one that is not a number has settled too."""
        relative = torch.linalg.vector_norm(weighted, math.inf, dim=-1, keepdim=True)
        absolute = torch.linalg.vector_norm(residual, math.inf, dim=-1, keepdim=True)
        self.small = absolute <= self.accepted
        falling = (relative < self.residual) | self.small.logical_not()
        unsettled = falling & (relative > self.tolerance)
        self.settled = self.settled | unsettled.logical_not()
        self.residual = relative

    def all_settled(self) -> bool:
        return bool(self.settled.all())

    def failed(self) -> Tensor:
        return self.small.logical_not()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)
