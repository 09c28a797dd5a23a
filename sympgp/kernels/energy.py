"""Covariances of Hamiltonians and of their gradients, in plain PyTorch.

``k(x, x') = cov(H(x), H(x'))`` determines all of a Gaussian process on H:

    cov(H(x), grad H(x')) = dk/dx',    cov(grad H(x), grad H(x')) = d2k / dx dx'.

States are (*batch, B, D), coordinates first; a kernel's own parameters may have batch dimensions
``*batch`` in front, as GPyTorch's have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import FourierBasis


@dataclass(frozen=True)
class Spectrum:
    """A kernel as a sum of waves and polynomials.

    ``k(x, x') = sum_m variance_m cos(omega_m . (x - x'))``, approximately, plus the kernel of
    linear and quadratic features with weights of variance ``polynomial``.

    Attributes:
        frequencies: (M, D) spectral points omega.
        variance: (M,).
        polynomial: scalar, zero where there are none.
    """

    frequencies: Float[Tensor, "features dim"]
    variance: Float[Tensor, " features"]
    polynomial: Float[Tensor, ""]

    def basis(self) -> FourierBasis:
        """The features, with the prior variances of their weights."""
        variances = [self.variance, self.variance]
        if float(self.polynomial) > 0.0:
            dim = self.frequencies.shape[1]
            variances.append(self.polynomial.expand(dim + dim * (dim + 1) // 2))
        return FourierBasis(self.frequencies, torch.cat(variances))


class EnergyKernel(ABC):
    """A twice differentiable covariance of H, closed under sums and positive factors.

    Attributes:
        polynomial: whether H is a polynomial, which needs no waves.
    """

    polynomial: ClassVar[bool] = False

    @abstractmethod
    def value(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns"]:
        """``k(x, y) = cov(H(x), H(y))`` for all pairs."""

    @abstractmethod
    def gradient(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim"]:
        """``dk/dy = cov(H(x), grad H(y))``."""

    @abstractmethod
    def hessian(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim dim"]:
        """``d2k / dx dy' = cov(grad H(x), grad H(y))``."""

    @abstractmethod
    def variance_at(self, x: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*both rows"]:
        """``k(x, x)``."""

    @abstractmethod
    def hessian_at(
        self, x: Float[Tensor, "*batch rows dim"]
    ) -> Float[Tensor, "*both rows dim dim"]:
        """``cov(grad H(x), grad H(x))``, state by state."""

    @abstractmethod
    def scaled(self, factor: Float[Tensor, "*batch"]) -> EnergyKernel:
        """``factor * k``."""

    @abstractmethod
    def spectrum(self, dim: int, num_features: int, seed: int) -> Spectrum:
        """Waves on states of width ``dim`` whose covariance tends to the kernel with their number.

        Raises:
            ValueError: the spectral density of this kernel is not known.
        """

    @abstractmethod
    def to(self, like: Tensor) -> EnergyKernel:
        """Detached copy on the device and in the dtype of ``like``."""

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """Tensors, numbers and strings that ``from_plain`` makes the same kernel of.

        Raises:
            ValueError: a kernel that is not described by its numbers alone.
        """

    def expansion(
        self, centers: Float[Tensor, "centers dim"], u: Float[Tensor, "*draws centers dim"]
    ) -> Expansion:
        """``h(z) = sum_j cov(H(z), grad H(c_j)) . u_j``: what posterior means are made of.

        One (N, D) array u, or one for each of several draws.
        """
        return PairwiseExpansion(self, centers, u)


class Expansion(ABC):
    """The function ``h(z) = sum_j cov(H(z), grad H(c_j)) . u_j``, or one for each of S draws.

    One function takes states (B, D), draws take (S, B, D).
    """

    @abstractmethod
    def value(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows"]:
        """``h(z)``."""

    @abstractmethod
    def gradient(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim"]:
        """``grad h(z) = sum_j cov(grad H(z), grad H(c_j)) u_j``."""


@dataclass(frozen=True)
class PairwiseExpansion(Expansion):
    """From the covariances of all pairs of states and centers."""

    kernel: EnergyKernel
    centers: Float[Tensor, "centers dim"]
    u: Float[Tensor, "*draws centers dim"]

    def value(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows"]:
        """``h(z)``."""
        return torch.einsum("...bcd,...cd->...b", self.kernel.gradient(z, self.centers), self.u)

    def gradient(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim"]:
        """``grad h(z)``."""
        return torch.einsum("...bcde,...ce->...bd", self.kernel.hessian(z, self.centers), self.u)


@dataclass(frozen=True)
class SumExpansion(Expansion):
    """Of a sum of kernels."""

    parts: tuple[Expansion, ...]

    def value(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows"]:
        """``h(z)``."""
        return _sum([part.value(z) for part in self.parts])

    def gradient(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim"]:
        """``grad h(z)``."""
        return _sum([part.gradient(z) for part in self.parts])


@dataclass(frozen=True)
class SumKernel(EnergyKernel):
    """``k = k_1 + k_2 + ...``: H is a sum of independent parts."""

    parts: tuple[EnergyKernel, ...]

    def value(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns"]:
        """``k(x, y)``."""
        return _sum([part.value(x, y) for part in self.parts])

    def gradient(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim"]:
        """``dk/dy``."""
        return _sum([part.gradient(x, y) for part in self.parts])

    def hessian(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim dim"]:
        """``d2k / dx dy'``."""
        return _sum([part.hessian(x, y) for part in self.parts])

    def variance_at(self, x: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*both rows"]:
        """``k(x, x)``."""
        return _sum([part.variance_at(x) for part in self.parts])

    def hessian_at(
        self, x: Float[Tensor, "*batch rows dim"]
    ) -> Float[Tensor, "*both rows dim dim"]:
        """``cov(grad H(x), grad H(x))``."""
        return _sum([part.hessian_at(x) for part in self.parts])

    def expansion(
        self, centers: Float[Tensor, "centers dim"], u: Float[Tensor, "*draws centers dim"]
    ) -> SumExpansion:
        """The parts'."""
        return SumExpansion(tuple(part.expansion(centers, u) for part in self.parts))

    def scaled(self, factor: Float[Tensor, "*batch"]) -> SumKernel:
        """``factor * k``."""
        return SumKernel(tuple(part.scaled(factor) for part in self.parts))

    def spectrum(self, dim: int, num_features: int, seed: int) -> Spectrum:
        """The parts' waves side by side, as many of each."""
        count = sum(not part.polynomial for part in self.parts)
        share = max(1, num_features // max(1, count))
        found = [part.spectrum(dim, share, seed + k) for k, part in enumerate(self.parts)]
        return Spectrum(
            torch.cat([part.frequencies for part in found]),
            torch.cat([part.variance for part in found]),
            _sum([part.polynomial for part in found]),
        )

    def to(self, like: Tensor) -> SumKernel:
        """Detached copy."""
        return SumKernel(tuple(part.to(like) for part in self.parts))

    def plain(self) -> dict[str, Any]:
        """The parts'."""
        return {"kind": "sum", "parts": [part.plain() for part in self.parts]}


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def from_plain(content: Mapping[str, Any]) -> EnergyKernel:
    """The kernel that ``EnergyKernel.plain`` described.

    Raises:
        ValueError: an unknown kind.
    """
    from sympgp.kernels.quadratic import Quadratic
    from sympgp.kernels.stationary import Stationary

    values = dict(content)
    kind = values.pop("kind", None)
    if kind == "sum":
        return SumKernel(tuple(from_plain(part) for part in values["parts"]))
    kinds: dict[Any, type[EnergyKernel]] = {"stationary": Stationary, "quadratic": Quadratic}
    if kind not in kinds:
        raise ValueError(f"kind: expected a kernel's description, got {kind!r}")
    if values.get("active") is not None:
        values["active"] = tuple(values["active"])
    return kinds[kind](**values)
