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
    """Duffing's oscillator with two wells, ``H = p^2 / 2 - q^2 / 2 + q^4 / 4``.

    The wells' bottoms are at q = -1 and q = 1 with ``H = -1/4``; the saddle between them is at
    the origin with ``H = 0``. Initial states are uniform in [-3, 3]^2, kept where
    ``0.5 <= H <= 2``: they run around both wells.

    Source: Tanaka, Iwata and Ueda, *Symplectic Spectrum Gaussian Processes*, NeurIPS 2022.

    Args:
        friction: At least 0: ``dp/dt = q - q^3 - friction p``.

    Example:
        >>> Duffing().hamiltonian([[0.0, 0.0], [1.0, 0.0]])
        tensor([ 0.0000, -0.2500], dtype=torch.float64)
    """

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (p**2 / 2 - q**2 / 2 + q**4 / 4).sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return q**3 - q, p

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        def between_the_levels(x: Tensor) -> Tensor:
            energy = self.hamiltonian(x)
            return (energy >= 0.5) & (energy <= 2.0)

        return uniform_where(between_the_levels, 3.0, 2, count, generator)
