"""Fixed-point iterations for batches of small problems, each of which ends on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

By = TypeVar("By")

_MIXING_MEMORY = 4
"""Differences kept by the mixing: two solve a linear problem in a plane, more cost more."""

_DEPENDENT = 1e-3
"""A difference within this relative distance of the span of newer ones is not used."""

_ROUND_OFF = 100.0
"""A residual that has stopped falling within this factor of the tolerance is round-off."""


def check_iteration(tolerance: float, max_iterations: int) -> None:
    """Refuse settings that no iteration can follow."""
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: expected a number in (0, 1), got {tolerance!r}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations: expected at least 1, got {max_iterations!r}")


def fixed_point(
    function: Callable[[Tensor], tuple[Tensor, By]],
    x: Float[Tensor, "*batch dim"],
    start: Float[Tensor, "*batch dim"],
    tolerance: float,
    max_iterations: int,
    floor: Float[Tensor, "*batch 1"] | None = None,
) -> tuple[By, Bool[Tensor, "*batch 1"]]:
    """Solve ``m = g(m)`` from ``start``, with sizes of coordinates taken from ``x`` and ``start``.

    Ends for every member separately, at the round-off of its own coordinates: a member with
    ``|residual| <= tolerance * (|x| + |start - x|)`` in every coordinate is left alone. The
    iteration has Anderson mixing, except where gradients are recorded: those of the plain one
    converge with it.

    Args:
        function: ``m -> (g(m), by-product)``.
        x: (..., D).
        start: (..., D) first iterate.
        tolerance: relative residual to reach; at least a few units of round-off are allowed.
        max_iterations: evaluations after which a member that is not near has failed.
        floor: (..., 1) round-off of ``g`` itself: a residual that has stopped falling below it
            is accepted too.

    Returns:
        The by-product at the last iterates, and which members (..., 1) failed.
    """
    recorded = torch.is_grad_enabled() and start.requires_grad
    mixing = _AndersonMixing(0 if recorded else min(x.shape[-1], _MIXING_MEMORY))
    monitor = _Convergence(x.detach(), start.detach(), tolerance, floor)
    # Reading a result back stalls an accelerator: look at every third iteration only.
    stride = 1 if x.device.type == "cpu" else 3
    point = start
    for iteration in range(1, max_iterations + 1):
        image, by_product = function(point)
        residual = image - point
        weighted = residual * monitor.weight
        monitor.update(residual.detach(), weighted.detach())
        last = iteration == max_iterations
        if last or (iteration % stride == 0 and monitor.all_settled()):
            break
        proposal = mixing.propose(image, weighted)
        point = torch.where(monitor.settled, point, proposal)
    return by_product, monitor.failed()


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
    """Which members of a batch of iterations have settled, and which failed.

    A residual is judged coordinate by coordinate, so that units do not matter. Only where it has
    stopped falling is it compared with the largest coordinate: a coordinate at rest never falls
    below the round-off that others bring into its rate.

    Attributes:
        weight: (..., D) inverse sizes of the coordinates.
        residual: (..., 1) largest weighted residual.
        settled: (..., 1) members whose iterate stays as it is.
        small: (..., 1) members whose residual is round-off of their largest coordinate.
    """

    def __init__(self, x: Tensor, start: Tensor, tolerance: float, floor: Tensor | None) -> None:
        self.tolerance = max(tolerance, 4 * torch.finfo(x.dtype).eps)
        size = x.abs() + (start - x).abs() + torch.finfo(x.dtype).tiny
        self.weight = size.reciprocal()
        largest = size.amax(-1, keepdim=True)
        self.accepted = _ROUND_OFF * self.tolerance * largest
        if floor is not None:
            self.accepted = torch.maximum(self.accepted, floor)
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
