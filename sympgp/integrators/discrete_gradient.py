"""A method whose energy balance is exact in discrete time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.integrators.base import (
    EnergyField,
    FixedStepIntegrator,
    Step,
    VectorField,
    check_rates,
    combine,
)
from sympgp.integrators.fixed_point import check_iteration, fixed_point


class DiscreteSlope:
    """Gonzalez' midpoint discrete gradient ``g`` between ``z`` and ``z' = 2 m - z``.

        g = grad H(m) + (H(z') - H(z) - grad H(m) . (z' - z)) / |z' - z|^2 (z' - z)

    so that ``g . (z' - z) = H(z') - H(z)``. Between states that are nearly equal the numerator is
    lost in the round-off of the energies. Where gradients are as good as straight between the
    states, by their second difference ``r`` relative to themselves, it is therefore taken from
    them, by Simpson's rule:

        (grad H(z) - 2 grad H(m) + grad H(z')) . (z' - z) / 6,

    whose error, about ``r^2 / 10`` of ``|grad H| |z' - z|``, is then below that round-off too.
    With energies of size K that change over distances L, ``r ~ (|z' - z| / L)^2 / 16`` and
    ``|grad H| < K / L`` make that ``r^(5/2) < 2.5 eps``.

    Args:
        field: its energy and gradient are used.
        start: (..., D) z.
        start_slope: (..., D) ``grad H(z)``.
        guess: (..., D) a midpoint near those to come, for the choice between the two.

    Attributes:
        near: (..., 1) where gradients are used.
        floor: (..., 1) what the round-off of energies may do to the midpoint.
    """

    def __init__(
        self,
        field: EnergyField,
        start: Float[Tensor, "*batch dim"],
        start_slope: Float[Tensor, "*batch dim"],
        guess: Float[Tensor, "*batch dim"],
    ) -> None:
        self.field, self.start, self.start_slope = field, start, start_slope
        self.start_energy = field.energy(start).unsqueeze(-1)
        with torch.no_grad():
            self.near, self.floor = self._resolution(guess.detach())
        # Asking an accelerator would stall it: there both are always evaluated.
        self.some_near = start.device.type != "cpu" or bool(self.near.any())

    def _resolution(self, guess: Tensor) -> tuple[Tensor, Tensor]:
        eps = torch.finfo(guess.dtype).eps
        change = 2.0 * (guess - self.start)
        thirds = [self.field.gradient(self.start + part * change) for part in (1 / 3, 2 / 3, 1.0)]
        first, second, last = thirds
        size = _length(self.start_slope) + _length(second)
        # Two differences: one alone is zero where the path crosses a point of inflection.
        bends = self.start_slope - 2.0 * first + second, first - 2.0 * second + last
        bend = 2.25 * torch.maximum(_length(bends[0]), _length(bends[1]))
        energy = self.start_energy.abs() + _length(change) * size
        near = bend <= (2.5 * eps) ** 0.4 * size
        near = near | (0.1 * bend**2 * _length(change) <= eps * energy * size)
        # K / |grad H|, at most: about L^2 / |z' - z| for small motions about a minimum.
        floor = 8.0 * eps * (energy / size + _length(change) * size / (16.0 * bend))
        return near, torch.where(near, 0.0, floor)

    def __call__(self, midpoint: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """``g``."""
        slope = self.field.gradient(midpoint)
        change = 2.0 * (midpoint - self.start)
        end = self.start + change
        gain = self.field.energy(end).unsqueeze(-1) - self.start_energy
        excess = gain - (slope * change).sum(-1, keepdim=True)
        if self.some_near:
            bend = self.start_slope - 2.0 * slope + self.field.gradient(end)
            by_slopes = (bend * change).sum(-1, keepdim=True) / 6.0
            excess = torch.where(self.near, by_slopes, excess)
        length = change.square().sum(-1, keepdim=True)
        return torch.addcmul(slope, excess / torch.where(length == 0, 1.0, length), change)


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


@dataclass(frozen=True)
class DiscreteGradient(FixedStepIntegrator):
    """Gonzalez' midpoint discrete gradient: implicit, order 2, with an exact energy balance.

        z' = z + h (J g - d(m, g) + G(m) u(t + h/2)),   m = (z + z') / 2,

    where ``g`` is the discrete gradient of H between ``z`` and ``z'`` (:class:`DiscreteSlope`).
    With dissipation ``d = R(m) g``,

        H(z') - H(z) = -h g' R(m) g + h g . G u

    for steps of any length, up to round-off and what is left of the iteration: the energy of a
    conservative field is kept, and friction takes from it at every step. Not symplectic; for a
    conservative field its own inverse under ``h -> -h``. The equation is solved by the iteration
    of :class:`ImplicitMidpoint`, with the same ends; a member for which it fails becomes NaN.

    The field has to be an :class:`EnergyField`: its energy, gradient and structure are needed.

    Source: Gonzalez, *Time integration and discrete Hamiltonian systems*, J. Nonlinear Sci. 6,
    1996.

    Attributes:
        step: no step is longer than this.
        tolerance: relative residual to reach; at least a few units of round-off are allowed.
        max_iterations: evaluations after which a member counts as failed.

    Example:
        >>> import torch
        >>> class Damped:  # H = q^4 / 4 + p^2 / 2 with friction 0.1
        ...     def energy(self, z):
        ...         return z[..., 0] ** 4 / 4 + z[..., 1] ** 2 / 2
        ...     def gradient(self, z):
        ...         return torch.stack([z[..., 0] ** 3, z[..., 1]], -1)
        ...     def flow(self, t, z, slope):
        ...         return torch.stack([slope[..., 1], -slope[..., 0] - 0.1 * slope[..., 1]], -1)
        ...     def __call__(self, t, z):
        ...         return self.flow(t, z, self.gradient(z))
        >>> z0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> path = DiscreteGradient(step=0.5).solve(Damped(), z0, range(20))
        >>> bool((Damped().energy(path).diff() < 0).all())
        True
    """

    tolerance: float = 1e-14
    max_iterations: int = 50

    order: ClassVar[int] = 2
    symplectic: ClassVar[bool] = False
    reversible: ClassVar[bool] = True
    needs_separable: ClassVar[bool] = False
    needs_energy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_iteration(self.tolerance, self.max_iterations)

    def advance(
        self, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
    ) -> Float[Tensor, "*batch dim"]:
        """States at ``t + h`` from states at ``t``; NaN where the iteration did not converge.

        Raises:
            ValueError: the field is no :class:`EnergyField`.
        """
        self.check_field(field)
        system = cast(EnergyField, field)
        first = check_rates(x, system.gradient(x))
        start = combine(x, h, (0.5,), [check_rates(x, system.flow(t, x, first))])
        # At a turning point the first guess says that nothing moves; the second does not.
        start = combine(x, h, (0.5,), [system.flow(t + 0.5 * h, start, system.gradient(start))])
        discrete = DiscreteSlope(system, x, first, start)

        def image(midpoint: Tensor) -> tuple[Tensor, Tensor]:
            rate = system.flow(t + 0.5 * h, midpoint, discrete(midpoint))
            return combine(x, h, (0.5,), [rate]), rate

        limits = self.tolerance, self.max_iterations, discrete.floor
        rate, failed = fixed_point(image, x, start, *limits)
        return combine(x, h, (1.0,), [rate]).masked_fill(failed, math.nan)
