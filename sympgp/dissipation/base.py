"""What a dissipation offers: a prior over its parameters, and the force it takes from the field."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.phase_space import CanonicalScaling


class ScaledDissipation(ABC):
    """What is taken from ``dz/ds = J grad H - d(z, g; rho)``, where ``g = grad H(z)``.

    Energy never grows: ``g . d(z, g; rho) >= 0`` for all states, slopes and parameters. Most are
    linear in the slope, ``d = R(z; rho) g`` with ``R`` positive semidefinite. All quantities are
    in scaled units. States and slopes are (..., D); parameters (K,) or, one row a draw, (S, K)
    with states (S, B, D). Parameters are ``rho ~ N(0, prior_stddev^2)``, in whatever form makes
    every value of them admissible; only ``truncated`` families ask for ``rho >= 0``.

    A subclass writes ``force`` in differentiable tensor operations that broadcast; derivatives
    come from it unless written by hand, and are tested against it.

    Attributes:
        prior_stddev: (K,).
        truncated: whether rho is one number, cut to be non-negative, and d linear in it.
        constant: whether ``d = R(rho) g`` with a matrix that is the same at all states.
    """

    prior_stddev: Float[Tensor, " params"]
    truncated: bool = False
    constant: bool = False

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width D of the states."""

    @property
    def num_parameters(self) -> int:
        """K."""
        return self.prior_stddev.shape[0]

    @property
    def lossless(self) -> bool:
        """Whether there is no force at all."""
        return self.num_parameters == 0

    def bound(self, rho: Float[Tensor, "*draws params"]) -> Callable[[Tensor, Tensor], Tensor]:
        """``(z, g) -> d(z, g; rho)`` with what depends on rho alone computed once, if anything."""
        return lambda z, slope: self.force(z, slope, rho)

    @abstractmethod
    def force(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim"]:
        """``d(z, g; rho)``."""

    @abstractmethod
    def coefficients(self, rho: Float[Tensor, "*draws params"]) -> Tensor:
        """What users are shown of parameters: user units, (..., shape of the family)."""

    @abstractmethod
    def start(self) -> Float[Tensor, " params"]:
        """Parameters of weak dissipation, where a search can begin."""

    def matrix(
        self, rho: Float[Tensor, "*draws params"], z: Float[Tensor, "*batch dim"] | None = None
    ) -> Tensor:
        """``R~``: of constant families (..., D, D) for each row of parameters, without states.

        Raises:
            TypeError: the force is not linear in the slope, so that there is no such matrix.
        """
        raise TypeError(f"{type(self).__name__}: the force is no matrix times grad H")

    def slope_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """``dd/dg`` at fixed z."""
        return self._derivative(1, z, slope, rho)

    def state_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """``dd/dz`` at fixed g; zero where the matrix is the same at all states."""
        if self.constant:
            return slope.new_zeros(*slope.shape, self.dim)
        return self._derivative(0, z, slope, rho)

    def parameter_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim params"]:
        """``dd/drho``."""
        return self._derivative(2, z, slope, rho)

    def _derivative(self, argument: int, z: Tensor, slope: Tensor, rho: Tensor) -> Tensor:
        """By forward-mode differentiation, state by state."""
        dim, num = z.shape[-1], rho.shape[-1]
        if rho.dim() > 1:
            rho = rho.unsqueeze(-2).expand(*z.shape[:-1], num)
        else:
            rho = rho.expand(*z.shape[:-1], num)
        every = (z.reshape(-1, dim), slope.reshape(-1, dim), rho.reshape(-1, num))
        one = torch.func.jacfwd(self._single, argnums=argument)
        found = torch.func.vmap(one)(*every)
        return found.reshape(*z.shape[:-1], *found.shape[1:])

    def _single(self, z: Tensor, slope: Tensor, rho: Tensor) -> Tensor:
        return self.force(z.unsqueeze(0), slope.unsqueeze(0), rho).squeeze(0)


class Dissipation(ABC):
    """A family of dissipations with a prior over its parameters, in user units."""

    @abstractmethod
    def scaled(self, scaling: CanonicalScaling) -> ScaledDissipation:
        """The family in scaled units: where ``d = R g``, ``R~ = kappa S^-1 R S^-1``."""
