"""Orbits in a plane: round a point mass, and in the potential of a galaxy."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.phase_space import join, split
from sympgp.systems.base import System, positive, state_names
from sympgp.systems.initial import uniform, uniform_where
from sympgp.trajectories import ArrayLike


class Kepler(System):
    """A body of mass 1 drawn to a centre at the origin, ``H = |p|^2 / 2 - mu / |q|``.

    Bound orbits (H < 0) without friction are ellipses with a focus at the origin, run through with
    the period ``2 pi sqrt(a^3 / mu)``, a the semi-major axis. The field is singular at q = 0.

    Initial states lie at a uniformly random time on an orbit with a uniform in [0.8, 1.2],
    eccentricity e uniform in [0, 0.5] and uniformly random orientation, so that no orbit comes
    nearer to the centre than ``a (1 - e) >= 0.4``. All of them run counter-clockwise.

    Args:
        friction: At least 0: ``dp/dt = -mu q / |q|^3 - friction p``; the body then spirals inwards,
            faster and faster.
        mu: Strength of the attraction, positive.

    Example:
        >>> orbit = Kepler()
        >>> circle = [1.0, 0.0, 0.0, 1.0]
        >>> orbit.semi_major_axis(circle), orbit.angular_momentum(circle)
        (tensor(1., dtype=torch.float64), tensor(1., dtype=torch.float64))
        >>> after = orbit.exact(circle, [0.0, float(orbit.period(circle))])[0, 1]
        >>> [round(abs(value), 6) for value in after.tolist()]
        [1.0, 0.0, 0.0, 1.0]
    """

    num_dof = 2
    names = state_names(2)

    _tolerance = 1e-13  # errors in the energy shift the body along its orbit ever further

    def __init__(self, friction: float | int = 0.0, *, mu: float | int = 1.0) -> None:
        super().__init__(friction)
        self.mu = positive(mu, "mu")

    def angular_momentum(self, x: ArrayLike) -> Float[Tensor, "*batch"]:
        """Return ``q1 p2 - q2 p1`` at states (..., 4), constant without friction.

        Raises:
            ValueError: If ``x`` is not of width 4.
        """
        q1, q2, p1, p2 = self._states(x, "x").unbind(-1)
        return q1 * p2 - q2 * p1

    def eccentricity_vector(self, x: ArrayLike) -> Float[Tensor, "*batch 2"]:
        """Return the Laplace-Runge-Lenz vector of states (..., 4), divided by mu.

        It is constant without friction, points to the orbit's pericentre and is as long as the
        orbit is eccentric: ``(p2 L, -p1 L) / mu - q / |q|`` with the angular momentum L.

        Raises:
            ValueError: If ``x`` is not of width 4.
        """
        q, p = split(self._states(x, "x"))
        turned = torch.stack([p[..., 1], -p[..., 0]], -1)
        momentum = self.angular_momentum(x)[..., None]
        return turned * momentum / self.mu - q / q.norm(dim=-1, keepdim=True)

    def semi_major_axis(self, x: ArrayLike) -> Float[Tensor, "*batch"]:
        """Return ``-mu / (2 H)`` at states (..., 4): negative for those that escape.

        Raises:
            ValueError: If ``x`` is not of width 4.
        """
        return -self.mu / (2 * self.hamiltonian(x))

    def period(self, x: ArrayLike) -> Float[Tensor, "*batch"]:
        """Return ``2 pi sqrt(a^3 / mu)`` at states (..., 4), NaN for those that escape.

        Raises:
            ValueError: If ``x`` is not of width 4.
        """
        return 2 * math.pi * (self.semi_major_axis(x) ** 3 / self.mu).sqrt()

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (p**2).sum(-1) / 2 - self.mu / q.norm(dim=-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu * q / q.norm(dim=-1, keepdim=True) ** 3, p

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        axis = uniform(0.8, 1.2, (count, 1), generator)
        eccentricity = uniform(0.0, 0.5, (count, 1), generator)
        mean, angle = uniform(0.0, 2 * math.pi, (2, count, 1), generator)
        # Kepler's equation; every pass halves the error at least, as the eccentricity is below 1/2.
        anomaly = mean
        for _ in range(60):
            anomaly = mean + eccentricity * anomaly.sin()
        minor = (1 - eccentricity**2).sqrt()
        q = axis * torch.cat([anomaly.cos() - eccentricity, minor * anomaly.sin()], -1)
        speed = (self.mu / axis).sqrt() / (1 - eccentricity * anomaly.cos())
        p = speed * torch.cat([-anomaly.sin(), minor * anomaly.cos()], -1)
        return join(_turned(q, angle), _turned(p, angle))


class HenonHeiles(System):
    """A star in the meridian plane of a galaxy, the field of Henon and Heiles.

        H = (p1^2 + p2^2 + q1^2 + q2^2) / 2 + mu (q1^2 q2 - q2^3 / 3)

    Three saddles at the distance 1 / mu from the origin, where ``H = 1 / (6 mu^2)``, are the
    corners of a triangle that orbits of less energy cannot leave. Most orbits are regular below
    half that energy and chaotic close to it. Initial states are uniform in the cube [-b, b]^4,
    b = 0.8 / mu, kept where ``H < 1 / (6 mu^2)``; by default that is [-1, 1]^4 and H < 0.2604.

    Source: Ross and Heinonen, *Learning Energy Conserving Dynamics Efficiently with Hamiltonian
    Gaussian Processes*, TMLR 2023, from the authors' published code; the field with mu = 1:
    Henon and Heiles, *The applicability of the third integral of motion*, Astronomical Journal
    69, 1964.

    Args:
        friction: At least 0: ``dp/dt = -dH/dq - friction p``.
        mu: Strength of the cubic part, positive.

    Example:
        >>> round(float(HenonHeiles().hamiltonian([0.0, 1.25, 0.0, 0.0])) * 6 * 0.8**2, 12)
        1.0
    """

    num_dof = 2
    names = state_names(2)

    _tolerance = 1e-13  # neighbouring chaotic orbits part a thousandfold within ten periods

    def __init__(self, friction: float | int = 0.0, *, mu: float | int = 0.8) -> None:
        super().__init__(friction)
        self.mu = positive(mu, "mu")

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        q1, q2 = q.unbind(-1)
        return (p**2 + q**2).sum(-1) / 2 + self.mu * (q1**2 * q2 - q2**3 / 3)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        q1, q2 = q.unbind(-1)
        cubic = torch.stack([2 * q1 * q2, q1**2 - q2**2], -1)
        return q + self.mu * cubic, p

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        escape = 1 / (6 * self.mu**2)
        return uniform_where(
            lambda x: self.hamiltonian(x) < escape, 0.8 / self.mu, 4, count, generator
        )


def _turned(vectors: Tensor, angle: Tensor) -> Tensor:
    """Vectors (N, 2) turned by angles (N, 1)."""
    x, y = vectors[:, :1], vectors[:, 1:]
    return torch.cat([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], -1)
