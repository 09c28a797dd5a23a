"""Lagrangian neural networks (Cranmer et al. 2020) with a prior: states are ``(q, dq/dt)``."""

from __future__ import annotations

import copy

from jaxtyping import Float
from torch import Tensor

from sympgp.energies.arguments import is_number
from sympgp.energies.base import Energy, Hyperparameters, LogNormal
from sympgp.energies.lagrangian_basis import LagrangianBasis
from sympgp.energies.slope import SlopeEnergy, check_scalar
from sympgp.phase_space import CanonicalScaling, join, split

FLOOR = 0.1
"""Of eigenvalues of the mass matrix, which are near one at first. Where masses are further apart
than by its inverse, training has to raise the free factor of L."""


class LagrangianEnergy(SlopeEnergy):
    """``L(q, v; w)`` on states ``(q, v)`` with ``v = dq/dt``, moving by Euler and Lagrange.

        dq/dt = v,    dv/dt = (d2L/dv2)^-1 (dL/dq - (d2L/dv dq) v)

    No momenta need be known, and dq/dt = v holds exactly. The energy is ``v . dL/dv - L`` and the
    momenta are ``dL/dv`` (``posterior.momenta``). L is the field's only up to a factor and up to
    the derivative ``d/dt F(q)`` of any function F, which change neither: momenta are known up to
    ``c p + dF/dq`` and energies up to ``c H``. Such Lagrangians, and others with the same motions,
    are told apart by the prior alone.

    ``L = sum_i m_i v_i^2 / 2 + l(q, v; w)``, where ``m`` gives all coordinates the same typical
    kinetic energy (one in user units for one degree of freedom): a learned l starts from free
    motion rather than from a singular mass matrix, and the factor c is near one. Where an
    eigenvalue of the learned mass matrix ``d2L/dv2``, relative to m, is below the floor all the
    same, the equation is solved with a positive definite matrix near it, see
    :class:`LagrangianBasis`: smooth, but not the motion of L, nor does it keep the energy there.

    A dissipation beside it acts on accelerations: ``R dq/dt`` is taken from ``dv/dt``. It lowers
    the energy where the learned mass matrix is positive, which nothing enforces.

    Args:
        function: the prior over l, a function of the state ``(q, v)``: a network, a
            Kolmogorov-Arnold network, Fourier features, or a formula in which p is written for v.
        free_motion: whether ``m v^2 / 2`` is added; False where the function is all of L, such as
            a formula in user units.
        floor: of the eigenvalues of the mass matrix relative to m, at least 0; below this they
            are not trusted. For a formula, whose masses have units, 0.
        velocity_lengthscale: over which l varies with velocities, relative to the function's own:
            ``l(q, v) = function(q, v / velocity_lengthscale)`` in scaled units. As kinetic
            energies are nearly quadratic, a network of 3 says what is known: masses change
            slowly with velocity. For a formula 1.

    Raises:
        ValueError: a function that is no scalar one, or has parameters that differ by trajectory; a
            floor that is negative or not finite; a lengthscale that is not positive.

    Example:
        >>> import torch
        >>> from sympgp.energies import PhysicsEnergy
        >>> pendulum = LagrangianEnergy(PhysicsEnergy("p**2/2 + cos(q)"), False, 0.0)
        >>> x = torch.tensor([[0.5, 2.0]], dtype=torch.float64)
        >>> basis = pendulum.basis({})
        >>> basis.slope(x, x[0, :0])  # of dq/dt = v, dv/dt = -sin q, turned
        tensor([[0.4794, 2.0000]], dtype=torch.float64)
        >>> basis.value(x, x[0, :0])  # v^2 / 2 - cos q
        tensor([1.1224], dtype=torch.float64)
    """

    def __init__(
        self,
        function: Energy,
        free_motion: bool = True,
        floor: float | int = FLOOR,
        velocity_lengthscale: float | int = 1.0,
    ) -> None:
        check_scalar("function", function)
        if not (is_number(floor) and floor >= 0):
            raise ValueError(f"floor: expected a finite number of at least 0, got {floor!r}")
        if not (is_number(velocity_lengthscale) and velocity_lengthscale > 0):
            raise ValueError(
                f"velocity_lengthscale: expected a positive number, got {velocity_lengthscale!r}"
            )
        self.function, self.num_dof = function, function.num_dof
        self.velocity_lengthscale = float(velocity_lengthscale)
        self.free_motion, self.floor = free_motion, float(floor)
        self.sparse = function.sparse
        self._scaling: CanonicalScaling | None = None

    @property
    def angles(self) -> dict[int, float]:
        """Those of the function."""
        return self.function.angles

    def in_units(self, scaling: CanonicalScaling) -> LagrangianEnergy:
        """The same for scaled states, which are ``(q, v)`` each in its own units.

        ``dz_q/ds = (time_scale scale_v / scale_q) (z_v + center_v / scale_v)`` is ``dq/dt = v``.
        """
        scaled = self._like(self.function.in_units(scaling))
        scaled._scaling = scaling
        return scaled

    def prepare(
        self, states: Float[Tensor, "states dim"], nominal: Float[Tensor, " weights"] | None = None
    ) -> LagrangianEnergy:
        """The same for data near these scaled states."""
        q, v = split(states)
        own = join(q, v / self.velocity_lengthscale)
        return self._like(self.function.prepare(own, nominal))

    def _like(self, function: Energy) -> LagrangianEnergy:
        found = copy.copy(self)
        found.function = function
        return found

    def check(self, x: Float[Tensor, "states dim"]) -> None:
        """Try formulas at these states (user units)."""
        self.function.check(x)

    def momenta(
        self, q: Float[Tensor, "*batch dof"], velocity: Float[Tensor, "*batch dof"]
    ) -> Float[Tensor, "*batch dof"]:
        """The second half of a state, which here is the velocity itself."""
        return velocity

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Those of the function."""
        return self.function.hyperpriors(spread)

    def basis(self, hyperparameters: Hyperparameters) -> LagrangianBasis:
        """The field in scaled units; in user units before ``in_units``."""
        function = self.function.basis(hyperparameters)
        like = function.prior_variance
        one = like.new_ones(self.num_dof)
        rate, drift, spread = one, 0.0 * one, one
        if self._scaling is not None:
            known = self._scaling.to(like.device, like.dtype)
            (scale_q, scale_v), (_, center) = split(known.scale), split(known.center)
            rate, drift = known.time_scale * scale_v / scale_q, center / scale_v
            spread = split(known.spread)[1]
        mass = rate / spread**2 if self.free_motion else 0.0 * one
        return LagrangianBasis(function, rate, drift, mass, self.floor, self.velocity_lengthscale)

    def redraw(self, seed: int) -> LagrangianEnergy:
        """The function with other draws, where there are any."""
        return self._like(self.function.redraw(seed))
