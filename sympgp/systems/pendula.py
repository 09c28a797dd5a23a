"""Pendula: a rigid one, two that hang from one another, one on a spring."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sympgp.phase_space import join
from sympgp.systems.base import System, positive, state_names
from sympgp.systems.initial import uniform


class Pendulum(System):
    """A point mass on a rigid rod, q the angle from the lowest point.

        H = mass gravity length (1 - cos q) + p^2 / (2 mass length^2),

    by default ``H = 3 (1 - cos q) + p^2``. Initial states lie at a radius uniform in [1.3, 2.3]
    in the (q, p) plane, in the direction of a point drawn uniformly from the square [-1, 1]^2; by
    default all of them swing to and fro: turning over takes ``H > 6``.

    The other published protocol has ``Pendulum(mass=1.0, gravity=9.81, half_width=1.0)``,
    ``H = 9.81 (1 - cos q) + p^2 / 2``, started uniformly in the square [-1, 1]^2.

    Source: Tanaka, Iwata and Ueda, *Symplectic Spectrum Gaussian Processes*, NeurIPS 2022, for
    the defaults; Ross and Heinonen, *Learning Energy Conserving Dynamics Efficiently with
    Hamiltonian Gaussian Processes*, TMLR 2023, for the other.

    Args:
        friction: At least 0: ``dp/dt = -mass gravity length sin q - friction p / (mass length^2)``.
        mass: Positive.
        length: Positive.
        gravity: Acceleration, positive.
        half_width: Start uniformly in the square [-half_width, half_width]^2, in place of the
            ring.

    Example:
        >>> Pendulum(friction=0.05).vector_field([0.0, 1.0])
        tensor([ 2.0000, -0.1000], dtype=torch.float64)
    """

    units: Mapping[str, str] = {"q": "rad"}

    def __init__(
        self,
        friction: float | int = 0.0,
        *,
        mass: float | int = 0.5,
        length: float | int = 1.0,
        gravity: float | int = 6.0,
        half_width: float | int | None = None,
    ) -> None:
        super().__init__(friction)
        self.mass = positive(mass, "mass")
        self.length = positive(length, "length")
        self.gravity = positive(gravity, "gravity")
        self.half_width = None if half_width is None else positive(half_width, "half_width")

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        weight = self.mass * self.gravity * self.length
        return (weight * (1 - q.cos()) + p**2 / (2 * self._inertia)).sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.mass * self.gravity * self.length * q.sin(), p / self._inertia

    @property
    def _inertia(self) -> float:
        return self.mass * self.length**2

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        if self.half_width is not None:
            return uniform(-self.half_width, self.half_width, (count, 2), generator)
        direction = uniform(-1.0, 1.0, (count, 2), generator)
        radius = uniform(1.3, 2.3, (count, 1), generator)
        return radius * direction / direction.norm(dim=-1, keepdim=True)


class DoublePendulum(System):
    """Two point masses on massless rods, the second hanging from the first.

    The coordinates are the rods' angles from the vertical. With d = q1 - q2,

        H = (m2 l2^2 p1^2 + (m1 + m2) l1^2 p2^2 - 2 m2 l1 l2 p1 p2 cos d)
              / (2 m2 l1^2 l2^2 (m1 + m2 sin(d)^2))
            - (m1 + m2) g l1 cos q1 - m2 g l2 cos q2.

    It starts at rest, at angles uniform in [-1, 1]^2. By default no rod can then turn over, which
    takes ``H > -1.96``, and neighbouring motions part slowly; at higher energies it is chaotic.

    Source: Tanaka, Iwata and Ueda, *Symplectic Spectrum Gaussian Processes*, NeurIPS 2022, from
    the authors' published code.

    Args:
        friction: In kg m^2/s, at least 0: dp/dt loses ``friction * dH/dp``, where dH/dp are the
            rods' angular velocities.
        masses: m1 and m2, from the top, in kg, positive.
        lengths: l1 and l2 in m, positive.
        gravity: g in m/s^2, positive.

    Example:
        >>> DoublePendulum().hamiltonian([[0.0, 0.0, 0.0, 0.0], [0.0, torch.pi, 0.0, 0.0]])
        tensor([-3.9200, -1.9600], dtype=torch.float64)
    """

    num_dof = 2
    names = state_names(2)
    units: Mapping[str, str] = {
        "q1": "rad",
        "q2": "rad",
        "p1": "kg m^2/s",
        "p2": "kg m^2/s",
        "time": "s",
    }

    def __init__(
        self,
        friction: float | int = 0.0,
        *,
        masses: Sequence[float | int] = (0.2, 0.1),
        lengths: Sequence[float | int] = (1.0, 1.0),
        gravity: float | int = 9.8,
    ) -> None:
        super().__init__(friction)
        self.masses = _pair(masses, "masses")
        self.lengths = _pair(lengths, "lengths")
        self.gravity = positive(gravity, "gravity")

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        (weight1, weight2), (q1, q2) = self._torques, q.unbind(-1)
        kinetic = (p * self._velocities(q, p)).sum(-1) / 2
        return kinetic - weight1 * q1.cos() - weight2 * q2.cos()

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        (weight1, weight2), (q1, q2) = self._torques, q.unbind(-1)
        velocities = self._velocities(q, p)
        # The kinetic energy depends on q through m2 l1 l2 v1 v2 cos(q1 - q2) alone when it is
        # written in the velocities, and there its derivative has the opposite sign.
        m2, (l1, l2) = self.masses[1], self.lengths
        coupling = m2 * l1 * l2 * velocities.prod(-1) * (q1 - q2).sin()
        dh_dq1, dh_dq2 = coupling + weight1 * q1.sin(), weight2 * q2.sin() - coupling
        return torch.stack([dh_dq1, dh_dq2], -1), velocities

    def _velocities(self, q: Tensor, p: Tensor) -> Tensor:
        """Angular velocities dH/dp (..., 2)."""
        (m1, m2), (l1, l2) = self.masses, self.lengths
        (q1, q2), (p1, p2) = q.unbind(-1), p.unbind(-1)
        cosine, mass = (q1 - q2).cos(), m1 + m2 * (q1 - q2).sin() ** 2
        v1 = (l2 * p1 - l1 * cosine * p2) / (l1**2 * l2 * mass)
        v2 = ((m1 + m2) * l1 * p2 - m2 * l2 * cosine * p1) / (m2 * l1 * l2**2 * mass)
        return torch.stack([v1, v2], -1)

    @property
    def _torques(self) -> tuple[float, float]:
        """The largest torques of gravity on the two angles."""
        (m1, m2), (l1, l2) = self.masses, self.lengths
        return (m1 + m2) * self.gravity * l1, m2 * self.gravity * l2

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        q = uniform(-1.0, 1.0, (count, 2), generator)
        return join(q, torch.zeros_like(q))


class SpringPendulum(System):
    """A point mass on a massless spring that swings in a plane.

    q1 is the spring's stretch beyond its natural length l, q2 its angle from the vertical:

        H = (p1^2 + p2^2 / (l + q1)^2) / (2 m) + k q1^2 / 2 - m g (l + q1) cos q2.

    At rest the spring is stretched by ``m g / k``. Initial states are uniform in [-0.25, 0.25]^4.

    Source: Ross and Heinonen, *Learning Energy Conserving Dynamics Efficiently with Hamiltonian
    Gaussian Processes*, TMLR 2023, from the authors' published code.

    Args:
        friction: At least 0: dp/dt loses ``friction * dH/dp``, the same number in kg/s for the
            stretch and in kg m^2/s for the angle.
        mass: m in kg, positive.
        length: l in m, positive.
        stiffness: k in N/m, positive.
        gravity: g in m/s^2, positive.

    Example:
        >>> SpringPendulum().vector_field([0.981, 0.0, 0.0, 0.0]).abs().max() < 1e-12
        tensor(True)
    """

    num_dof = 2
    names = state_names(2)
    units: Mapping[str, str] = {
        "q1": "m",
        "q2": "rad",
        "p1": "kg m/s",
        "p2": "kg m^2/s",
        "time": "s",
    }

    _tolerance = 1e-13  # errors in the energy shift the phases of both motions ever further

    def __init__(
        self,
        friction: float | int = 0.0,
        *,
        mass: float | int = 1.0,
        length: float | int = 3.0,
        stiffness: float | int = 10.0,
        gravity: float | int = 9.81,
    ) -> None:
        super().__init__(friction)
        self.mass = positive(mass, "mass")
        self.length = positive(length, "length")
        self.stiffness = positive(stiffness, "stiffness")
        self.gravity = positive(gravity, "gravity")

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        (q1, q2), (p1, p2) = q.unbind(-1), p.unbind(-1)
        radius = self.length + q1
        kinetic = (p1**2 + (p2 / radius) ** 2) / (2 * self.mass)
        weight = self.mass * self.gravity
        return kinetic + self.stiffness * q1**2 / 2 - weight * radius * q2.cos()

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        (q1, q2), (p1, p2) = q.unbind(-1), p.unbind(-1)
        radius = self.length + q1
        weight = self.mass * self.gravity
        centrifugal = p2**2 / (self.mass * radius**3)
        dh_dq1 = self.stiffness * q1 - weight * q2.cos() - centrifugal
        dh_dq2 = weight * radius * q2.sin()
        velocities = torch.stack([p1 / self.mass, p2 / (self.mass * radius**2)], -1)
        return torch.stack([dh_dq1, dh_dq2], -1), velocities

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        return uniform(-0.25, 0.25, (count, 4), generator)


def _pair(values: Sequence[float | int], name: str) -> tuple[float, float]:
    if len(values) != 2:
        raise ValueError(f"{name}: expected two positive numbers, got {values!r}")
    return positive(values[0], name), positive(values[1], name)
