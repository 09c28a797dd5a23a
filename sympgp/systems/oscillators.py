"""Oscillators with one degree of freedom."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sympgp.systems.base import System, positive
from sympgp.systems.initial import uniform, uniform_where


class HarmonicOscillator(System):
    """A mass on a spring, ``H = p^2 / (2 mass) + stiffness q^2 / 2``.

    Without friction it turns with the angular frequency ``sqrt(stiffness / mass)``. Initial
    states lie at a uniformly random phase of that motion, with ``sqrt(2 H)`` uniform in [0.5, 1.5].

    Args:
        mass: In kg, positive.
        stiffness: In N/m, positive.
        friction: In kg/s, at least 0: ``dp/dt = -stiffness q - friction p / mass``.

    Example:
        >>> HarmonicOscillator(mass=2.0).hamiltonian([1.0, 2.0])
        tensor(1.5000, dtype=torch.float64)
    """

    units: Mapping[str, str] = {"q": "m", "p": "kg m/s", "time": "s"}

    def __init__(
        self, mass: float | int = 1.0, stiffness: float | int = 1.0, friction: float | int = 0.0
    ) -> None:
        super().__init__(friction)
        self.mass = positive(mass, "mass")
        self.stiffness = positive(stiffness, "stiffness")

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (p**2 / (2 * self.mass) + self.stiffness * q**2 / 2).sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.stiffness * q, p / self.mass

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        phase = uniform(0.0, 2 * math.pi, (count,), generator)
        amplitude = uniform(0.5, 1.5, (count,), generator)
        q = amplitude * phase.cos() / math.sqrt(self.stiffness)
        p = amplitude * phase.sin() * math.sqrt(self.mass)
        return torch.stack([q, p], -1)


class Duffing(System):
    """Duffing's oscillator, ``H = p^2 / 2 + alpha q^2 / 2 + beta q^4 / 4``.

    The spring pulls with ``-alpha q - beta q^3``. With the default ``alpha = -1, beta = 1`` there
    are two wells: their bottoms are at q = -1 and q = 1 with ``H = -1/4``; the saddle between them
    is at the origin with ``H = 0``. With ``alpha >= 0`` there is one well, about the origin.

    In units of ``sqrt(|alpha| / beta)`` for q, ``|alpha| / sqrt(beta)`` for p and ``alpha^2 /
    beta`` for H, in which both terms of the spring have the same strength at q = 1, initial states
    are uniform in [-3, 3]^2, kept where ``0.5 <= H <= 2``: they run around both wells where there
    are two. (With ``alpha = 0`` the units are ``beta^(-1/4)``, 1 and 1.)

    Source: Tanaka, Iwata and Ueda, *Symplectic Spectrum Gaussian Processes*, NeurIPS 2022.

    Args:
        friction: At least 0: ``dp/dt = -alpha q - beta q^3 - friction p``.
        alpha: Linear stiffness of any sign.
        beta: Cubic stiffness, positive.

    Example:
        >>> Duffing().hamiltonian([[0.0, 0.0], [1.0, 0.0]])
        tensor([ 0.0000, -0.2500], dtype=torch.float64)
        >>> Duffing(alpha=1.0, beta=2.0).hamiltonian([1.0, 0.0])
        tensor(1., dtype=torch.float64)
    """

    def __init__(
        self, friction: float | int = 0.0, *, alpha: float | int = -1.0, beta: float | int = 1.0
    ) -> None:
        super().__init__(friction)
        if isinstance(alpha, bool) or not math.isfinite(alpha):
            raise ValueError(f"alpha: expected a finite number, got {alpha!r}")
        self.alpha = float(alpha)
        self.beta = positive(beta, "beta")

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (p**2 / 2 + self.alpha * q**2 / 2 + self.beta * q**4 / 4).sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.beta * q**3 + self.alpha * q, p

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        size = abs(self.alpha)
        units = (size / self.beta) ** 0.5, size / self.beta**0.5
        scale = torch.tensor(units if size else (self.beta**-0.25, 1.0), dtype=torch.float64)
        energy_scale = scale[1] ** 2

        def between_the_levels(x: Tensor) -> Tensor:
            energy = self.hamiltonian(scale * x)
            return (energy >= 0.5 * energy_scale) & (energy <= 2.0 * energy_scale)

        return scale * uniform_where(between_the_levels, 3.0, 2, count, generator)
