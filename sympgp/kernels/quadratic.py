"""The covariance of linear and quadratic energies, such as kinetic ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.kernels.energy import EnergyKernel, Expansion, Spectrum


@dataclass(frozen=True)
class Quadratic(EnergyKernel):
    """``H(x) = l . x + x' Q x / 2`` with independent entries of variance ``variance``.

    ``Q`` is symmetric, so that

        k(x, y) = variance (x . y + (x . y)^2 / 2 - sum_i x_i^2 y_i^2 / 4).

    Attributes:
        variance: (*batch), of every entry of l and of the upper triangle of Q.
    """

    polynomial: ClassVar[bool] = True

    variance: Float[Tensor, "*batch"]

    def value(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns"]:
        """``k(x, y)``."""
        product = x @ y.mT
        own = x.square() @ y.square().mT
        return self.variance[..., None, None] * (product + 0.5 * product**2 - 0.25 * own)

    def gradient(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim"]:
        """``variance (x + (x . y) x - x^2 y / 2)``, entry by entry."""
        product = (x @ y.mT).unsqueeze(-1)
        first, second = x.unsqueeze(-2), y.unsqueeze(-3)
        total = (1.0 + product) * first - 0.5 * first.square() * second
        return self.variance[..., None, None, None] * total

    def hessian(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim dim"]:
        """``variance ((1 + x . y) I + y x' - diag(x y))``."""
        product = (x @ y.mT)[..., None]
        first, second = x.unsqueeze(-2), y.unsqueeze(-3)
        diagonal = torch.diag_embed(1.0 + product - first * second)
        total = diagonal + second.unsqueeze(-1) * first.unsqueeze(-2)
        return self.variance[..., None, None, None, None] * total

    def variance_at(self, x: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*both rows"]:
        """``k(x, x)``."""
        square = x.square().sum(-1)
        total = square + 0.5 * square**2 - 0.25 * x.square().square().sum(-1)
        return self.variance.unsqueeze(-1) * total

    def hessian_at(
        self, x: Float[Tensor, "*batch rows dim"]
    ) -> Float[Tensor, "*both rows dim dim"]:
        """``variance ((1 + x . x) I + x x' - diag(x^2))``."""
        square = x.square()
        diagonal = torch.diag_embed(1.0 + square.sum(-1, keepdim=True) - square)
        total = diagonal + x.unsqueeze(-1) * x.unsqueeze(-2)
        return self.variance[..., None, None, None] * total

    def expansion(
        self, centers: Float[Tensor, "centers dim"], u: Float[Tensor, "*draws centers dim"]
    ) -> QuadraticExpansion:
        """A quadratic polynomial, whatever the number of centers."""
        mixed = u.mT @ centers
        own = torch.diag_embed((u * centers).sum(-2))
        linear = self.variance * u.sum(-2)
        return QuadraticExpansion(linear, self.variance * (mixed + mixed.mT - own))

    def scaled(self, factor: Float[Tensor, "*batch"]) -> Quadratic:
        """``factor * k``."""
        return Quadratic(factor * self.variance)

    def spectrum(self, dim: int, num_features: int, seed: int) -> Spectrum:
        """The polynomials themselves, and no waves."""
        none = self.variance.new_zeros(0, dim)
        return Spectrum(none, none[:, 0], self.variance)

    def to(self, like: Tensor) -> Quadratic:
        """Detached copy."""
        return Quadratic(self.variance.detach().to(like))

    def plain(self) -> dict[str, Any]:
        """Kind and attributes."""
        return {"kind": "quadratic", "variance": self.variance}


@dataclass(frozen=True)
class QuadraticExpansion(Expansion):
    """``h(z) = l . z + z' Q z / 2``.

    Attributes:
        linear: (*draws, D).
        matrix: (*draws, D, D), symmetric.
    """

    linear: Float[Tensor, "*draws dim"]
    matrix: Float[Tensor, "*draws dim dim"]

    def value(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows"]:
        """``h(z)``."""
        return (z * (self.linear.unsqueeze(-2) + 0.5 * z @ self.matrix)).sum(-1)

    def gradient(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim"]:
        """``l + Q z``."""
        return self.linear.unsqueeze(-2) + z @ self.matrix
