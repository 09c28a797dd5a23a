"""Kinetic energies ``T = p' M^-1 p / 2`` with a known mass matrix, or one to be found."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.arguments import check_count
from sympgp.energies.base import Energy, Hyperparameters, LogNormal
from sympgp.energies.kinetic_basis import KineticBasis, KnownKineticBasis, QuadraticKineticBasis
from sympgp.phase_space import CanonicalScaling, split


class Kinetic(Energy, ABC):
    """A kinetic energy ``T = p' M^-1 p / 2`` in user units, without hyperparameters.

    In scaled units, where momenta are ``p = c + S z_p`` and ``H~ = time_scale H / kappa``,

        T~ = (shift + z_p)' A (shift + z_p) / 2,    A = time_scale / kappa S M^-1 S,

    with ``shift = S^-1 c``: linear terms come with a centre of the data that is not at rest.

    Args:
        num_dof: degrees of freedom n. Without it, 1, or what a separable energy needs.

    Raises:
        ValueError: a count below one.
        RuntimeError: the basis asked for before ``in_units``.
    """

    def __init__(self, num_dof: int | None = None) -> None:
        if num_dof is not None:
            check_count("num_dof", num_dof)
        self.num_dof = 1 if num_dof is None else num_dof
        self.adapts = num_dof is None
        self._scaling: CanonicalScaling | None = None

    def with_dof(self, num_dof: int) -> Kinetic:
        """The same for another number of degrees of freedom, where none was said.

        Raises:
            ValueError: another number was said.
        """
        if num_dof == self.num_dof:
            return self
        if not self.adapts:
            raise ValueError(f"kinetic: expected one for num_dof={num_dof}, got {self.num_dof}")
        other = copy.copy(self)
        other.num_dof = num_dof
        return other

    def in_units(self, scaling: CanonicalScaling) -> Kinetic:
        """For states in these scaled units."""
        if scaling.num_dof != self.num_dof:
            raise ValueError(
                f"scaling: expected one for num_dof={self.num_dof}, got {scaling.num_dof}"
            )
        other = copy.copy(self)
        other._scaling = scaling
        return other

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """None."""
        return {}

    def basis(self, hyperparameters: Hyperparameters) -> KineticBasis:
        """The kinetic energy in scaled units."""
        if self._scaling is None:
            raise RuntimeError("a kinetic energy has to be put into scaled units with in_units")
        _, center = split(self._scaling.center)
        _, scale = split(self._scaling.scale)
        # A = U M^-1 U with U = sqrt(time_scale / kappa) S.
        unit = (self._scaling.time_scale / self._scaling.kappa).sqrt() * scale
        return self._basis(center / scale, unit)

    @abstractmethod
    def _basis(self, shift: Float[Tensor, " dof"], unit: Float[Tensor, " dof"]) -> KineticBasis:
        """From ``S^-1 c`` and the diagonal of ``U``, where ``A = U M^-1 U``."""

    def redraw(self, seed: int) -> Kinetic:
        """Itself: nothing is drawn."""
        return self


class KnownKinetic(Kinetic):
    """``T = p' M^-1 p / 2`` with a known mass matrix, user units; no weights.

    It says which momentum belongs to which velocity, ``p = M dq/dt``, so that positions alone can
    be observed.

    Args:
        mass: one number for all coordinates, (n,) a diagonal, or a symmetric positive definite
            (n, n) matrix.
        num_dof: degrees of freedom n; with one number for the mass it may be left to others.

    Raises:
        ValueError: a mass of another shape, not finite, not symmetric or not positive.

    Example:
        >>> kinetic = KnownKinetic([2.0, 0.5])
        >>> kinetic.momenta(torch.zeros(2), torch.tensor([3.0, 4.0])).tolist()
        [6.0, 2.0]
    """

    def __init__(self, mass: Any = 1.0, num_dof: int | None = None) -> None:
        self.mass = torch.as_tensor(mass, dtype=torch.float64).detach()
        if self.mass.dim() > 0 and num_dof is None:
            num_dof = self.mass.shape[0]
        super().__init__(num_dof)
        _check_mass(self.mass, self.num_dof)

    def _matrix(self, like: Tensor) -> Float[Tensor, "dof dof"]:
        mass = self.mass.to(like)
        if mass.dim() == 2:
            return mass
        return torch.diag(mass.expand(self.num_dof))

    def momenta(
        self, q: Float[Tensor, "*batch dof"], velocity: Float[Tensor, "*batch dof"]
    ) -> Float[Tensor, "*batch dof"]:
        """``p = M velocity``."""
        return velocity @ self._matrix(velocity)

    def _basis(
        self, shift: Float[Tensor, " dof"], unit: Float[Tensor, " dof"]
    ) -> KnownKineticBasis:
        inverse = torch.linalg.inv(self._matrix(unit))
        inverse = 0.5 * (inverse + inverse.mT)
        return KnownKineticBasis(shift, unit[:, None] * inverse * unit)


class QuadraticKinetic(Kinetic):
    """``T = p' M^-1 p / 2`` with a posterior over the mass matrix M, positive for every draw.

    In scaled units the inverse mass matrix is ``A = L L'`` with ``L = D (1 + N)``, where D is
    diagonal with entries ``exp(w_i)`` and N strictly lower triangular with entries ``w_ij``.
    Weights zero give ``A = 1``, a mass with which coordinates move as fast as the data do.
    ``basis(...).mass_matrix(w)`` gives M in user units.

    Where no momenta are observed, M and V can be multiplied by one number without a change of the
    motion of the coordinates: only the prior fixes it.

    Args:
        num_dof: degrees of freedom n; without it, 1, or what a separable energy needs.
        diagonal: a diagonal mass matrix.
        log_stddev: prior standard deviation of the logarithm of ``D^2``.
        coupling: prior standard deviation of the entries of N.

    Raises:
        ValueError: a standard deviation that is not positive.
    """

    def __init__(
        self,
        num_dof: int | None = None,
        *,
        diagonal: bool = False,
        log_stddev: float | int = 1.0,
        coupling: float | int = 0.5,
    ) -> None:
        super().__init__(num_dof)
        for name, value in (("log_stddev", log_stddev), ("coupling", coupling)):
            if isinstance(value, bool) or not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a positive number, got {value!r}")
        self.diagonal = diagonal
        self.log_stddev = log_stddev
        self.coupling = coupling

    def _basis(
        self, shift: Float[Tensor, " dof"], unit: Float[Tensor, " dof"]
    ) -> QuadraticKineticBasis:
        n = self.num_dof
        variance = torch.full_like(shift, (0.5 * self.log_stddev) ** 2)
        if not self.diagonal:
            below = torch.full_like(shift[:1], self.coupling**2).expand(n * (n - 1) // 2)
            variance = torch.cat([variance, below])
        return QuadraticKineticBasis(shift, unit, variance)


def _check_mass(mass: Tensor, num_dof: int) -> None:
    if mass.dim() > 2 or any(size != num_dof for size in mass.shape):
        raise ValueError(
            f"mass: expected one number, ({num_dof},) or ({num_dof}, {num_dof}), "
            f"got shape {tuple(mass.shape)}"
        )
    if not bool(mass.isfinite().all()):
        raise ValueError(f"mass: expected finite numbers, got {mass.tolist()}")
    if mass.dim() < 2:
        if not bool((mass > 0).all()):
            raise ValueError(f"mass: expected positive numbers, got {mass.tolist()}")
        return
    if not torch.allclose(mass, mass.mT, rtol=1e-8, atol=0.0):
        raise ValueError(f"mass: expected a symmetric matrix, got {mass.tolist()}")
    if int(torch.linalg.cholesky_ex(mass)[1]) > 0:
        raise ValueError(f"mass: expected a positive definite matrix, got {mass.tolist()}")
