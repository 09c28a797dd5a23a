"""Systems with known energies for the tests of integrators: fields with energy and structure."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Known:
    """``(J - R) grad H + G u(t)`` with energy and gradient as functions of the coordinates."""

    potential: Callable[..., Tensor]
    slope: Callable[..., tuple[Tensor, ...]]
    separable: bool = True
    friction: Tensor | None = None
    push: Callable[[float | Tensor], Tensor] | None = None
    offset: float = 0.0
    count: int = 0

    @property
    def conservative(self) -> bool:
        return self.friction is None and self.push is None

    def energy(self, z: Tensor) -> Tensor:
        return self.potential(*z.unbind(-1)) + self.offset

    def gradient(self, z: Tensor) -> Tensor:
        self.count += 1
        return torch.stack(self.slope(*z.unbind(-1)), -1)

    def flow(self, t: float | Tensor, z: Tensor, slope: Tensor) -> Tensor:
        by_q, by_p = slope.chunk(2, -1)
        rates = torch.cat([by_p, -by_q], -1)
        if self.friction is not None:
            rates = rates - slope @ self.friction.mT
        return rates if self.push is None else rates + self.push(t)

    def __call__(self, t: float | Tensor, z: Tensor) -> Tensor:
        return self.flow(t, z, self.gradient(z))


def pendulum(**settings) -> Known:
    """H = p^2 + 3 (1 - cos q)."""
    return Known(
        lambda q, p: p**2 + 3 * (1 - torch.cos(q)),
        lambda q, p: (3 * torch.sin(q), 2 * p),
        **settings,
    )


def oscillator(**settings) -> Known:
    """H = (q^2 + p^2) / 2."""
    return Known(lambda q, p: (q**2 + p**2) / 2, lambda q, p: (q, p), **settings)


def chain(**settings) -> Known:
    """H = p1^2 + p2^2 / 2 + 3 (1 - cos q1) + (q1 - q2)^2 / 2 + q2^4 / 4."""
    return Known(
        lambda q1, q2, p1, p2: (
            p1**2 + p2**2 / 2 + 3 * (1 - torch.cos(q1)) + (q1 - q2) ** 2 / 2 + q2**4 / 4
        ),
        lambda q1, q2, p1, p2: (3 * torch.sin(q1) + q1 - q2, q2 - q1 + q2**3, 2 * p1, p2),
        **settings,
    )


def mixed(**settings) -> Known:
    """H = (p1^2 (1 + q2^2) + p2^2 + q1^2 + q2^2) / 2 + q2^4 / 4: not separable."""
    return Known(
        lambda q1, q2, p1, p2: (p1**2 * (1 + q2**2) + p2**2 + q1**2 + q2**2) / 2 + q2**4 / 4,
        lambda q1, q2, p1, p2: (q1, q2 * p1**2 + q2 + q2**3, p1 * (1 + q2**2), p2),
        separable=False,
        **settings,
    )


DAMPING = torch.diag(torch.tensor([0.0, 0.0, 0.3, 0.1], dtype=torch.float64))


def damped() -> Known:
    """The same energy with friction on both momenta."""
    return mixed(friction=DAMPING)


def driven() -> Known:
    """And with a force that depends on time."""

    def push(t: float | Tensor) -> Tensor:
        force = torch.tensor([0.0, 0.0, 1.0, -0.5], dtype=torch.float64)
        return force * (torch.sin(2.0 * t) if isinstance(t, Tensor) else math.sin(2.0 * t))

    return mixed(friction=DAMPING, push=push)
