"""Chains of coupled oscillators, as many as wanted."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.phase_space import join
from sympgp.systems.base import System, non_negative, state_names
from sympgp.systems.initial import uniform

# How many of the lowest normal modes the initial states are made of.
MODES = 3


class OscillatorChain(System):
    """A chain of n nonlinear oscillators of mass 1, each coupled to its neighbours.

        H = sum_i p_i^2 / 2 + sum_i V(q_i) + sum_links W(q_(i+1) - q_i),
        V(u) = stiffness u^2 / 2 + quartic u^4 / 4,
        W(s) = coupling s^2 / 2 + coupling_quartic s^4 / 4.

    With fixed ends there are n + 1 links, the outer ones to walls at 0; a periodic chain closes to
    a ring of n links. Without ``coupling_quartic`` it is the nonlinear wave equation
    ``u_tt = c^2 u_xx - V'(u)`` on n points at a distance h of one another, with
    ``coupling = (c / h)^2`` (the Klein-Gordon or phi^4 chain); without V it is the chain of
    Fermi, Pasta, Ulam and Tsingou of kind beta, whose total momentum is constant on a ring.

    Initial states are sums of the three lowest normal modes of the linear part (all modes where n
    is smaller), each with an amplitude uniform in [0.2, 0.6] and a uniformly random phase of its
    oscillation. With the defaults and ten oscillators or more the nonlinearity is moderate: the
    quartic part holds 4 to 20% of the potential energy.

    Source: Fermi, Pasta and Ulam, *Studies of nonlinear problems*, Los Alamos report LA-1940,
    1955, for the links' potential.

    Args:
        num_oscillators: n, at least 1.
        friction: At least 0: ``dp/dt = -dH/dq - friction p``.
        coupling: Of the links' quadratic part, at least 0.
        coupling_quartic: Of the links' quartic part, at least 0.
        stiffness: Of each oscillator's own quadratic part, at least 0.
        quartic: Of each oscillator's own quartic part, at least 0.
        periodic: Whether the chain is a ring.

    Example:
        >>> chain = OscillatorChain(50)
        >>> chain.num_dof, chain.names[49:51], chain.sample_initial(3).shape
        (50, ('q50', 'p1'), torch.Size([3, 100]))
    """

    def __init__(
        self,
        num_oscillators: int = 10,
        friction: float | int = 0.0,
        *,
        coupling: float | int = 1.0,
        coupling_quartic: float | int = 0.0,
        stiffness: float | int = 1.0,
        quartic: float | int = 1.0,
        periodic: bool = False,
    ) -> None:
        super().__init__(friction)
        if isinstance(num_oscillators, bool) or num_oscillators < 1:
            raise ValueError(f"num_oscillators: expected at least 1, got {num_oscillators!r}")
        self.num_dof = num_oscillators
        self.names = state_names(num_oscillators)
        self.coupling = non_negative(coupling, "coupling")
        self.coupling_quartic = non_negative(coupling_quartic, "coupling_quartic")
        self.stiffness = non_negative(stiffness, "stiffness")
        self.quartic = non_negative(quartic, "quartic")
        self.periodic = periodic

    def normal_modes(
        self, count: int | None = None
    ) -> tuple[Float[Tensor, "mode dof"], Float[Tensor, " mode"]]:
        """Return shapes and angular frequencies of the linear part's lowest normal modes.

        From the longest wave to the shortest: with fixed ends, for k = 1, 2, .., n,

            shape_k(i) = sin(pi k i / (n + 1)),
            frequency_k^2 = stiffness + 4 coupling sin(pi k / (2 (n + 1)))^2,

        and on a ring, for k = 0, 1, -1, 2, -2, .., n of them,

            shape_k(i) = cos(2 pi k i / n - pi / 4),
            frequency_k^2 = stiffness + 4 coupling sin(pi k / n)^2.

        Args:
            count: How many; all n by default.

        Raises:
            ValueError: If ``count`` is not from 1 to n.
        """
        n = self.num_dof
        count = n if count is None else count
        if not 1 <= count <= n:
            raise ValueError(f"count: expected 1 to {n}, got {count!r}")
        site = torch.arange(1, n + 1, dtype=torch.float64)
        mode = site[:count]
        if self.periodic:
            number = torch.where(mode % 2 == 0, 1, -1) * (mode / 2).floor()
            wave, shift = 2 * math.pi * number / n, math.pi / 4
        else:
            wave, shift = math.pi * mode / (n + 1), math.pi / 2
        shapes = (wave[:, None] * site - shift).cos()
        return shapes, (self.stiffness + 4 * self.coupling * (wave / 2).sin() ** 2).sqrt()

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        own = self.stiffness * q**2 / 2 + self.quartic * q**4 / 4
        stretch = self._stretch(q)
        # On a ring the first and the last link are the same one.
        stretch = stretch[..., 1:] if self.periodic else stretch
        links = self.coupling * stretch**2 / 2 + self.coupling_quartic * stretch**4 / 4
        return (p**2).sum(-1) / 2 + own.sum(-1) + links.sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        stretch = self._stretch(q)
        tension = self.coupling * stretch + self.coupling_quartic * stretch**3
        return self.stiffness * q + self.quartic * q**3 - tension.diff(dim=-1), p

    def _stretch(self, q: Tensor) -> Tensor:
        """How far each of n + 1 links is stretched, from the one left of the first oscillator."""
        first, last = q[..., :1], q[..., -1:]
        wall = torch.zeros_like(first)
        left, right = (last, first) if self.periodic else (wall, wall)
        return torch.cat([left, q, right], -1).diff(dim=-1)

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        shapes, frequencies = self.normal_modes(min(MODES, self.num_dof))
        amplitude = uniform(0.2, 0.6, (count, len(shapes)), generator)
        phase = uniform(0.0, 2 * math.pi, (count, len(shapes)), generator)
        q = (amplitude * phase.cos()) @ shapes
        return join(q, -(amplitude * frequencies * phase.sin()) @ shapes)
