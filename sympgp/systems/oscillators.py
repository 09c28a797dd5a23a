"""Oscillators with one degree of freedom."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sympgp.systems.base import System, non_negative


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    return low + (high - low) * draws


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

    units: ClassVar[Mapping[str, str]] = {"q": "m", "p": "kg m/s", "time": "s"}

    def __init__(
        self, mass: float | int = 1.0, stiffness: float | int = 1.0, friction: float | int = 0.0
    ) -> None:
        super().__init__(friction)
        self.mass = _positive(mass, "mass")
        self.stiffness = _positive(stiffness, "stiffness")

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (p**2 / (2 * self.mass) + self.stiffness * q**2 / 2).sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.stiffness * q, p / self.mass

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        phase = _uniform(0.0, 2 * math.pi, (count,), generator)
        amplitude = _uniform(0.5, 1.5, (count,), generator)
        q = amplitude * phase.cos() / math.sqrt(self.stiffness)
        p = amplitude * phase.sin() * math.sqrt(self.mass)
        return torch.stack([q, p], -1)


class Pendulum(System):
    """A pendulum, ``H = 3 (1 - cos q) + p^2``, with q the angle from the lowest point.

    Initial states lie at a radius uniform in [1.3, 2.3] in the (q, p) plane, in the direction of
    a point drawn uniformly from the square [-1, 1]^2. All of them swing to and fro: turning over
    takes ``H > 6``.

    Source: Tanaka, Iwata and Ueda, *Symplectic Spectrum Gaussian Processes*, NeurIPS 2022.

    Args:
        friction: At least 0: ``dp/dt = -3 sin q - 2 friction p``.

    Example:
        >>> Pendulum(friction=0.05).vector_field([0.0, 1.0])
        tensor([ 2.0000, -0.1000], dtype=torch.float64)
    """

    units: ClassVar[Mapping[str, str]] = {"q": "rad"}

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (3 * (1 - q.cos()) + p**2).sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return 3 * q.sin(), 2 * p

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        direction = _uniform(-1.0, 1.0, (count, 2), generator)
        radius = _uniform(1.3, 2.3, (count, 1), generator)
        return radius * direction / direction.norm(dim=-1, keepdim=True)


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
        kept = torch.empty(0, 2, dtype=torch.float64)
        while len(kept) < count:
            candidates = _uniform(-3.0, 3.0, (count, 2), generator)
            energy = self.hamiltonian(candidates)
            kept = torch.cat([kept, candidates[(energy >= 0.5) & (energy <= 2.0)]])
        return kept[:count]


def _positive(value: float | int, name: str) -> float:
    if value == 0:
        raise ValueError(f"{name}: expected a positive number, got {value!r}")
    return non_negative(value, name)
