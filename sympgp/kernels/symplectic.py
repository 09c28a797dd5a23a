"""The covariance of Hamiltonian vector fields as a GPyTorch kernel."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.kernels import Kernel
from gpytorch.priors import HalfNormalPrior
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import LinearDissipation
from sympgp.kernels.energy import EnergyKernel
from sympgp.kernels.translation import energy_kernel
from sympgp.phase_space import join, symplectic_matrix


class SymplecticKernel(Kernel):
    """Covariance of vector fields ``f(x) = (J - R) grad H(x)`` where H has a known covariance.

        K(x, x') = (J - R) [grad grad' k(x, x')] (J - R)'

    Every draw is the vector field of one Hamiltonian; without friction it has no divergence. Each
    state has 2n outputs, all coordinates first; as in GPyTorch's multitask kernels the outputs of
    one state stand together, so that matrices are (2n B, 2n C).

    The derivatives of RBF and Matern kernels (3/2, 5/2), scaled, summed and with ``active_dims``,
    are closed forms; those of other kernels are found by automatic differentiation.

    Args:
        base_kernel: covariance k of H, on states of width 2n.
        num_dof: degrees of freedom n.
        friction: ``R = eta diag(0, I)`` with eta >= 0 to be learned when True; or the matrices of
            ``R = sum_k eta_k matrices[k]``; R = 0 when False.
        friction_prior: a GPyTorch prior of eta; half-normal, of scale one or of the
            dissipation's own, when None.
        friction_constraint: of eta; positive when None.

    Raises:
        ValueError: a base kernel whose functions have no gradient, such as Matern-1/2; no degree
            of freedom.

    Example:
        >>> from gpytorch.kernels import RBFKernel
        >>> kernel = SymplecticKernel(RBFKernel(ard_num_dims=2), num_dof=1).double()
        >>> x = torch.zeros(3, 2, dtype=torch.float64)
        >>> kernel(x).shape
        torch.Size([6, 6])

    Source: Tanaka, Iwata and Ueda, *Symplectic Spectrum Gaussian Processes*, NeurIPS 2022, for
    its approximation by features.
    """

    def __init__(
        self,
        base_kernel: Kernel,
        num_dof: int,
        friction: bool | LinearDissipation = False,
        friction_prior: torch.nn.Module | None = None,
        friction_constraint: Interval | None = None,
    ) -> None:
        super().__init__()
        if isinstance(num_dof, bool) or not isinstance(num_dof, int) or num_dof < 1:
            raise ValueError(f"num_dof: expected a whole number of at least 1, got {num_dof!r}")
        if base_kernel.num_outputs_per_input(*torch.zeros(2, 1, 2 * num_dof)) != 1:
            raise ValueError("base_kernel: expected a kernel of one output, the covariance of H")
        energy_kernel(base_kernel, 2 * num_dof, check=True)
        self.base_kernel = base_kernel
        self.num_dof = num_dof
        matrices, scale = _family(friction, num_dof)
        self.register_buffer("matrices", matrices)
        if len(matrices):
            raw = torch.zeros(len(matrices), dtype=torch.get_default_dtype())
            self.register_parameter("raw_friction", torch.nn.Parameter(raw))
            self.register_constraint("raw_friction", friction_constraint or Positive())
            prior = friction_prior or HalfNormalPrior(scale)
            self.register_prior("friction_prior", prior, _get_friction, _set_friction)
            self.friction = 0.1

    @property
    def friction(self) -> Float[Tensor, " k"]:
        """Parameters eta of R; none without friction."""
        if not len(self.matrices):
            return self.matrices.new_zeros(0)
        return self.raw_friction_constraint.transform(self.raw_friction)

    @friction.setter
    def friction(self, value: Float[Tensor, " k"] | float) -> None:
        values = torch.as_tensor(value, dtype=self.raw_friction.dtype).to(self.raw_friction)
        raw = self.raw_friction_constraint.inverse_transform(values)
        self.initialize(raw_friction=raw.expand(self.raw_friction.shape))

    @property
    def structure(self) -> Float[Tensor, "dim dim"]:
        """``J - R``."""
        matrices = self.matrices
        J = symplectic_matrix(self.num_dof, dtype=matrices.dtype, device=matrices.device)
        return J - torch.tensordot(self.friction.to(matrices), matrices, dims=1)

    @property
    def energy(self) -> EnergyKernel:
        """Covariance of H and its derivatives, at the present parameters."""
        return energy_kernel(self.base_kernel, 2 * self.num_dof)

    @property
    def is_stationary(self) -> bool:
        """Whether the base kernel is."""
        return bool(self.base_kernel.is_stationary)

    @property
    def batch_shape(self) -> torch.Size:
        """That of the base kernel."""
        return self.base_kernel.batch_shape

    def num_outputs_per_input(self, x1: Tensor, x2: Tensor) -> int:
        """2n."""
        return 2 * self.num_dof

    def forward(
        self,
        x1: Float[Tensor, "*batch rows dim"],
        x2: Float[Tensor, "*other columns dim"],
        diag: bool = False,
        **params: Any,
    ) -> Tensor:
        """The matrix (*batch, 2n B, 2n C), or its diagonal (*batch, 2n B) for x1 = x2."""
        self._check(x1)
        structure = self.structure.to(x1)
        if diag:
            if x1.shape != x2.shape or not torch.equal(x1, x2):
                raise ValueError("diag: expected the same states twice")
            own = structure @ self.energy.hessian_at(x1)
            return (own * structure).sum(-1).flatten(-2)
        blocks = structure @ self.energy.hessian(x1, x2) @ structure.mT
        return blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2)

    def energy_covariance(
        self, x1: Float[Tensor, "*batch rows dim"], x2: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns"]:
        """``cov(H(x1), H(x2))``."""
        self._check(x1)
        return self.energy.value(x1, x2)

    def cross_covariance(
        self, x1: Float[Tensor, "*batch rows dim"], x2: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows outputs"]:
        """``cov(H(x1), f(x2)) = dk/dx2' (J - R)'``, (*batch, B, 2n C)."""
        self._check(x1)
        return (self.energy.gradient(x1, x2) @ self.structure.to(x1).mT).flatten(-2)

    def _check(self, x: Tensor) -> None:
        if x.shape[-1] != 2 * self.num_dof:
            raise ValueError(
                f"x: expected states of width {2 * self.num_dof}, got {tuple(x.shape)}"
            )


def _family(friction: bool | LinearDissipation, num_dof: int) -> tuple[Tensor, Tensor]:
    """Matrices (K, 2n, 2n) and prior scales (K,)."""
    if isinstance(friction, LinearDissipation):
        return friction.matrices, friction.prior_stddev
    one = torch.ones(num_dof, dtype=torch.get_default_dtype())
    matrix = torch.diag(join(torch.zeros_like(one), one))
    return matrix.expand(int(friction), *matrix.shape), one[:1].expand(int(friction))


def _get_friction(module: SymplecticKernel) -> Tensor:
    return module.friction


def _set_friction(module: SymplecticKernel, value: Tensor) -> None:
    module.friction = value
