"""What a basis with fixed weights offers: its gradient as a map, derivatives that share work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from sympgp.compiled import Rate


class Linearized(NamedTuple):
    """Derivatives of the energies of several draws, each at its own states.

    Attributes:
        slope: (S, B, D) gradients of H.
        hessian: (S, B, D, D).
        pull_back: from ``v`` (S, B, D) to ``sum_b v_b . d(grad H)(z_b) / dw``, (S, P).
    """

    slope: Tensor
    hessian: Tensor
    pull_back: Callable[[Tensor], Tensor]


class LocalDerivatives(NamedTuple):
    """Derivatives of one energy at states.

    Attributes:
        slope: (B, D) gradient of H.
        hessian: (B, D, D).
        parts: what they were made of, for a basis that uses it again.
    """

    slope: Tensor
    hessian: Tensor
    parts: tuple[Tensor, ...]


class GradientMap(ABC):
    """``z -> K grad H(z)`` for fixed weights and a fixed matrix ``K`` (the identity at first).

    Attributes:
        sines: how many a state takes in the part that :meth:`compiled` makes faster.
    """

    sines: int = 0

    @abstractmethod
    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at the states."""

    @abstractmethod
    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> GradientMap:
        """The map ``z -> matrix K grad H(z)``."""

    @abstractmethod
    def first(self) -> GradientMap:
        """The first of several draws alone, still with a draw axis."""

    def compiled(self) -> GradientMap:
        """The same map compiled where there is something to gain, up to rounding; else itself."""
        return self

    def with_jacobian(self, z: Float[Tensor, "batch dim"]) -> tuple[Tensor, Tensor] | None:
        """The map and its derivative ``K H''(z)``, (B, D, D), of one energy, from work they share.

        None where they share nothing.
        """
        return None

    def compiled_rate(self) -> Rate | None:
        """The map as a function of tensors that a compiler can take; None without such a form."""
        return None
