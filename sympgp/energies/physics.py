"""Known physics: an energy given as a formula, with priors for its unknown parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.angles import checked_angles
from sympgp.energies.arguments import check_count
from sympgp.energies.base import Energy, Hyperparameters, LogNormal
from sympgp.energies.contextual import Context, unwrapped
from sympgp.energies.contextual_basis import ContextualBasis
from sympgp.energies.contextual_effects import CovariateNetwork, ParameterEffect
from sympgp.energies.differentiated import gradient
from sympgp.energies.formula_checks import (
    check_callable,
    check_periodic,
    check_signature,
    check_string,
    sorted_parameters,
)
from sympgp.energies.physics_basis import CallableBasis, ExpressionBasis, Formula, PhysicsBasis
from sympgp.phase_space import CanonicalScaling, join

NEWTON_STEPS = 50
SPREAD = 1.0
"""Log standard deviation of the hyperpriors of what differs by trajectory."""


class PhysicsEnergy(Energy):
    """``H(q, p; theta)`` by a formula in user units, with a posterior over its parameters.

    Every parameter has a prior, from which it is a function of a standard normal weight: exactly
    for normal and log-normal ones, ``F^-1(Phi(w))`` by the quantile function otherwise. H counts
    up to a constant. What the formula cannot tell apart (m and l of ``m*l**2``), the data cannot
    either: the posterior is then as wide as the prior along such a direction.

    Args:
        formula: a string of numbers, names, ``+ - * / **``, parentheses, ``pi`` and elementary
            functions, in which ``q`` and ``p`` (``q1..qn`` and ``p1..pn`` of several degrees of
            freedom) are the state and all other names parameters; or a function
            ``formula(q, p, **parameters)`` in torch operations from q and p (..., n) to H (...),
            state by state, to which parameters come as scalar tensors and constants as numbers.
            A string is differentiated by rule, which is several times faster, can be saved, and
            shows whether H is separable.
        parameters: for every parameter a univariate distribution of ``torch.distributions`` with
            a quantile function, or a number where it is known. Of a parameter that differs by
            trajectory, ``Pooled(distribution)`` or ``FromCovariates(distribution)``.
        num_dof: degrees of freedom n.
        periodic: indices of the coordinates that are angles, from 0 to n - 1: data of them may be
            wrapped or not, and pictures show one turn.
        period: their period in user units, one number or one a periodic coordinate.

    Raises:
        ValueError: a formula that cannot be read, returns the wrong shape, is not differentiable
            or does not depend on one of the parameters; parameters without priors, or that are
            not in the formula; an angle in which the formula is not periodic, that is a momentum
            or no entry of the state, or is named twice; a period that is not positive.

    Example:
        >>> from torch.distributions import LogNormal
        >>> energy = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": LogNormal(1.0, 0.5)})
        >>> energy.values(torch.zeros(1, dtype=torch.float64))["k"]
        tensor(2.7183, dtype=torch.float64)
    """

    def __init__(
        self,
        formula: str | Formula,
        parameters: Mapping[str, Any] | None = None,
        num_dof: int = 1,
        *,
        periodic: Sequence[int] = (),
        period: float | int | Sequence[float | int] = 2.0 * math.pi,
    ) -> None:
        check_count("num_dof", num_dof)
        self.formula, self.num_dof = formula, num_dof
        self.periodic, self.period = checked_angles(periodic, period, num_dof)
        plain, self.differing = unwrapped({} if parameters is None else parameters)
        priors, known = sorted_parameters(plain)
        self.names, self.priors = tuple(priors), tuple(priors.values())
        self.known_names, self.known_values = tuple(known), tuple(known.values())
        self._scaling: CanonicalScaling | None = None
        self._context: Context | None = None
        self.pooled = any(own.pooled for own in self.differing.values())
        self.by_covariates = any(own.hidden is not None for own in self.differing.values())
        given = set(priors) | set(known)
        if isinstance(formula, str):
            check_string(formula, num_dof, given)
        elif callable(formula):
            check_signature(formula, given)
            # Generic states: within the unit interval, all different.
            count = 3 * 2 * num_dof
            generic = torch.linspace(0.2, 0.9, count, dtype=torch.float64).reshape(3, -1)
            check_callable(formula, self._in_user_units(generic), generic)
        else:
            raise ValueError(f"formula: expected a string or a function, got {formula!r}")
        if self.periodic:
            check_periodic(self._in_user_units(torch.zeros(1, dtype=torch.float64)), self.angles)

    @property
    def angles(self) -> dict[int, float]:
        """Coordinates that are angles, and their periods in user units."""
        return dict(zip(self.periodic, self.period, strict=True))

    def in_units(self, scaling: CanonicalScaling) -> PhysicsEnergy:
        """``H~(z) = H(center + scale z) / energy_scale``.

        Raises:
            ValueError: the states have another number of degrees of freedom.
        """
        if scaling.num_dof != self.num_dof:
            raise ValueError(
                f"formula: expected states of {self.num_dof} degree(s) of freedom, "
                f"got {scaling.num_dof}"
            )
        scaled = copy.copy(self)
        scaled._scaling = scaling
        return scaled

    def in_context(self, context: Context) -> PhysicsEnergy:
        """For parameters that differ by trajectory, those of these trajectories."""
        known = copy.copy(self)
        known._context = context
        return known

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Scales of what differs by trajectory: ``"k_spread"`` of deviations, ``"k_effect"``.

        Both are standard deviations of the parameter's weight, the latter that of the network.
        """
        found = {}
        for name, own in self.differing.items():
            if own.pooled:
                found[f"{name}_spread"] = LogNormal(spread.new_tensor(own.spread), SPREAD)
            if own.hidden is not None:
                found[f"{name}_effect"] = LogNormal(spread.new_tensor(own.effect), SPREAD)
        return found

    def basis(
        self, hyperparameters: Hyperparameters | None = None
    ) -> PhysicsBasis | ContextualBasis:
        """The formula in scaled units; in user units before ``in_units``.

        Raises:
            ValueError: parameters that differ by trajectory, and no trajectories.
        """
        formula = self.formula_basis()
        if not self.differing:
            return formula
        if self._context is None:
            raise ValueError(
                f"parameters: {', '.join(self.differing)} differs by trajectory, so trajectories "
                "are needed to learn it from; got none"
            )
        context, hyper = self._context.to(formula.scale), hyperparameters or {}
        none, effects = formula.scale.new_zeros(()), []
        for name, own in self.differing.items():
            network, variance, count = None, none, 0
            if own.pooled:
                variance, count = hyper[f"{name}_spread"] ** 2, context.count + 1
            if own.hidden is not None:
                scale = hyper[f"{name}_effect"] ** 2
                width = context.width - 1
                network = CovariateNetwork.of(own.hidden, width, scale, own.seed)
            effects.append(ParameterEffect(self.names.index(name), count, variance, network))
        return ContextualBasis(formula, tuple(effects), context)

    def formula_basis(self) -> PhysicsBasis:
        """The formula alone, as that of a typical trajectory."""
        scaling = self._scaling
        if scaling is None:
            one = torch.ones(2 * self.num_dof, dtype=torch.float64)
            units = (torch.zeros_like(one), one, one.new_ones(()))
        else:
            units = (scaling.center, scaling.scale, scaling.energy_scale)
        rest = (self.known_names, self.known_values, *units, tuple(self.angles.items()))
        if isinstance(self.formula, str):
            return ExpressionBasis(self.formula, self.names, self.priors, *rest)
        return CallableBasis(self.formula, self.names, self.priors, *rest)

    def redraw(self, seed: int) -> PhysicsEnergy:
        """The same: nothing is drawn."""
        return self

    def values(self, w: Float[Tensor, "*draws weights"]) -> dict[str, Tensor]:
        """The unknown parameters in user units, by name, each of shape (...)."""
        return self.formula_basis().values(w)

    def check(self, x: Float[Tensor, "batch dim"]) -> None:
        """Try the formula on states in user units, at the medians of the priors.

        Args:
            x: states; rows with missing entries are left out.

        Raises:
            ValueError: what the class says, or energies or slopes that are not finite.
        """
        if x.shape[-1] != 2 * self.num_dof:
            raise ValueError(
                f"formula: expected states of {self.num_dof} degree(s) of freedom, "
                f"got states of length {x.shape[-1]}"
            )
        x = x[x.isfinite().all(-1)].detach()
        if len(x) == 0:
            return
        if not isinstance(self.formula, str):
            check_callable(self.formula, self._in_user_units(x), x)
        w = x.new_zeros(len(self.names))
        basis = self._in_user_units(x)
        for what, found in (
            ("the energy", basis.value(x, w).unsqueeze(-1)),
            ("its gradient", basis.gradient_map(w)(x)),
        ):
            bad = ~found.isfinite().all(-1)
            if bool(bad.any()):
                at = ", ".join(f"{v:.6g}" for v in x[bad][0].tolist())
                raise ValueError(
                    f"formula: {what} is not finite at {int(bad.sum())} of {len(x)} states, with "
                    f"parameters at the medians of their priors; first at (q, p) = ({at})"
                )

    def momenta(
        self, q: Float[Tensor, "*batch dof"], velocity: Float[Tensor, "*batch dof"]
    ) -> Float[Tensor, "*batch dof"] | None:
        """Momenta at which ``dH/dp = velocity``, with parameters at the medians of their priors.

        By Newton's method from zero: one step where the kinetic energy is quadratic. None where
        the mass matrix ``(d^2 H / dp^2)^-1`` does not exist or the search does not end. Entries
        with missing coordinates or velocities give missing momenta.
        """
        whole = (q.isfinite() & velocity.isfinite()).all(-1)
        own_q, own_velocity = q[whole], velocity[whole]
        basis = self._in_user_units(q)
        energy = basis.bound(q.new_zeros(len(self.names)))
        found = _newton(energy, own_q.detach(), own_velocity.detach())
        if found is None:
            return None
        p = torch.full_like(q, math.nan)
        p[whole] = found
        return p

    def _in_user_units(self, like: Tensor) -> PhysicsBasis:
        plain = copy.copy(self)
        one = torch.ones(2 * self.num_dof, dtype=like.dtype, device=like.device)
        unit = one.new_ones(())
        plain._scaling = CanonicalScaling(torch.zeros_like(one), one, unit, 0.0 * unit, one)
        return plain.formula_basis()


def _newton(energy: Any, q: Tensor, velocity: Tensor) -> Tensor | None:
    """Solve ``dH/dp = velocity`` for rows (N, n)."""
    num_dof = q.shape[-1]
    p = torch.zeros_like(velocity)
    numbers = torch.finfo(p.dtype)
    if len(p) == 0:
        return p

    def slope(momentum: Tensor) -> Tensor:
        return gradient(lambda leaf: energy(join(q, leaf)), momentum, keep=True)

    def row(momentum: Tensor, i: int) -> Tensor:
        return gradient(lambda leaf: slope(leaf)[:, i], momentum, keep=False)

    for _ in range(NEWTON_STEPS):
        masses = torch.stack([row(p, i) for i in range(num_dof)], 1)
        step, failed = torch.linalg.solve_ex(masses, velocity - slope(p).detach())
        p = p + step
        if bool(failed.any()) or not bool(p.isfinite().all()):
            return None
        # Newton's error is the square of its step.
        if bool((step.abs().amax(-1) <= numbers.eps**0.5 * p.abs().amax(-1)).all()):
            singular = torch.linalg.cond(masses) > 0.1 / numbers.eps
            return None if bool(singular.any()) else p
    return None
