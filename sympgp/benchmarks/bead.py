"""A system for the tables that nobody has published results for."""

from __future__ import annotations

import torch
from torch import Tensor

from sympgp.systems import System
from sympgp.systems.initial import uniform_where


class Bead(System):
    """A bead that slides on a wire with two dips, ``y(q) = (q^2 - 1)^2 / 8``.

    The bead of mass 1 moves along the wire, so that its inertia in the coordinate q depends on
    the slope ``y' = (q^3 - q) / 2``: the Hamiltonian is not a sum of kinetic and potential energy,

        H = p^2 / (2 (1 + y'^2)) + gravity y,    gravity = 4.

    The dips are at q = -1 and q = 1 with ``H = 0``; the hump between them is at the origin with
    ``H = 1/2``. Initial states are uniform in [-3, 3]^2, kept where ``0.8 <= H <= 2.4``: the bead
    runs through both dips, and its inertia changes up to five times on the way.

    Args:
        friction: At least 0: dp/dt loses ``friction * dH/dp = friction * dq/dt``.

    Example:
        >>> Bead().hamiltonian([[0.0, 0.0], [1.0, 2.0]])
        tensor([0.5000, 2.0000], dtype=torch.float64)
    """

    gravity = 4.0

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (p**2 / (2 * _inertia(q)) + self.gravity * (q**2 - 1) ** 2 / 8).sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        inertia, slope = _inertia(q), (q**3 - q) / 2
        change = slope * (3 * q**2 - 1)  # of the inertia
        return self.gravity * slope - p**2 * change / (2 * inertia**2), p / inertia

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        def between_the_levels(x: Tensor) -> Tensor:
            energy = self.hamiltonian(x)
            return (energy >= 0.8) & (energy <= 2.4)

        return uniform_where(between_the_levels, 3.0, 2, count, generator)


def _inertia(q: Tensor) -> Tensor:
    return 1 + ((q**3 - q) / 2) ** 2
