"""Populations of predators and prey, Hamiltonian in logarithmic coordinates."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sympgp.systems.base import System, positive
from sympgp.systems.initial import uniform


class LotkaVolterra(System):
    """The Lotka-Volterra equations in q = log prey and p = log predator.

        H = a p - b exp(p) + c q - d exp(q)

    gives ``dq/dt = a - b exp(p)`` and ``dp/dt = d exp(q) - c``, that is

        d prey / dt = prey (a - b predator),    d predator / dt = predator (d prey - c).

    H is largest at the equilibrium ``prey = c / d``, ``predator = a / b``, which all other
    states go round. Initial states lie at a distance uniform in [0.5, 1.2] from it in the (q, p)
    plane, in a uniformly random direction.

    There is no friction: losing H would drive the populations away from their equilibrium.

    Source: the defaults are the posterior means for the pelts of ``hare_lynx()``, in thousands
    and years, of B. Carpenter, *Predator-Prey Population Dynamics: the Lotka-Volterra model in
    Stan*, 2018.

    Args:
        friction: 0; here so that all systems are built alike.
        a: Growth rate of the prey without predators, positive.
        b: Loss rate of the prey per predator, positive.
        c: Death rate of the predators without prey, positive.
        d: Growth rate of the predators per prey, positive.

    Raises:
        ValueError: If there is friction, or a rate is not positive.

    Example:
        >>> LotkaVolterra(a=1.0, b=0.5, c=1.0, d=0.25).vector_field([math.log(8), 0.0])
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """

    names = ("log prey", "log predator")
    units: Mapping[str, str] = {
        "log prey": "log of thousand pelts",
        "log predator": "log of thousand pelts",
        "time": "year",
    }

    def __init__(
        self,
        friction: float | int = 0.0,
        *,
        a: float | int = 0.545,
        b: float | int = 0.028,
        c: float | int = 0.803,
        d: float | int = 0.024,
    ) -> None:
        super().__init__(friction)
        if self.friction:
            raise ValueError(f"friction: expected 0, as populations have none, got {friction!r}")
        self.a, self.b = positive(a, "a"), positive(b, "b")
        self.c, self.d = positive(c, "c"), positive(d, "d")

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (self.a * p - self.b * p.exp() + self.c * q - self.d * q.exp()).sum(-1)

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.c - self.d * q.exp(), self.a - self.b * p.exp()

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        angle = uniform(0.0, 2 * math.pi, (count,), generator)
        distance = uniform(0.5, 1.2, (count,), generator)
        q = math.log(self.c / self.d) + distance * angle.cos()
        p = math.log(self.a / self.b) + distance * angle.sin()
        return torch.stack([q, p], -1)
