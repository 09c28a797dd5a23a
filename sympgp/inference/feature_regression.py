"""Regression of rates on states with features of the energy.

Given hyperparameters, noise and friction, ``dz/ds = (J - R) grad H(z) + noise`` is linear in the
weights. Friction multiplies H, so it is found by Gauss-Newton: about (H_0, rho_0)

    f(z) = (J - R(rho_0)) grad H(z) - sum_k (rho_k - rho_0k) R_k grad H_0(z).

Other dissipation and other energies are linear about ``theta_0 = (w_0, rho_0)`` only,
``f(z; theta) = f(z; theta_0) + (df/dtheta) (theta - theta_0)``, and so is their evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.dissipation import ScaledDissipation
from sympgp.energies import Energy, Hyperparameters, LogNormal
from sympgp.fields import HamiltonianField
from sympgp.inference.pairs import Pairs
from sympgp.inference.rate_noise import RateNoise
from sympgp.inference.regression import NoiseFit, Regression, Solution, gaussian_log_density
from sympgp.posterior import Component
from sympgp.posterior.component import GaussianComponent
from sympgp.posterior.exact import JITTER
from sympgp.posterior.ridge import chosen_states

HALVINGS, SLACK = 12, 1e-9
"""Most halvings of a Gauss-Newton step, and the relative rise that is rounding."""
STEPS, CLOSE = 30, 1e-3
"""Most Gauss-Newton steps, and the change by prior standard deviations that ends them."""
WEIGHTS = "the precision of the weights"


@dataclass(frozen=True)
class FeatureRegression(Regression):
    """The features of an energy: ``f(z) = Psi(z) w``, or what is linear about a solution.

    Attributes:
        energy: prior over H.
        dissipation: scaled.
        linear: whether H is linear in its weights.
        centre: the solution; None where the field is linear in the weights at any friction.
    """

    energy: Energy
    dissipation: ScaledDissipation
    linear: bool = True
    centre: FeatureSolution | None = None

    @property
    def exact(self) -> bool:
        """Where H is linear in the weights and R is the same at all states."""
        return self.linear and self.dissipation.constant

    def held_rho(self) -> Float[Tensor, " k"] | None:
        """Those of the solution, where dissipation depends on the state.

        There are too many of them to search for beside the hyperparameters.
        """
        if self.dissipation.constant or self.centre is None:
            return None
        return self.centre.rho

    def started(
        self, pairs: Pairs, hyperparameters: Hyperparameters, noise_std: Float[Tensor, " dim"]
    ) -> FeatureRegression:
        """About the solution at these hyperparameters, sought without dissipation first."""
        if self.exact:
            return self
        field = HamiltonianField(self.energy.basis(hyperparameters), self.dissipation)
        start = torch.zeros_like(field.prior_precision())
        plain = FeatureSolution.settled(field.undamped(), pairs, start, noise_std)
        start = torch.cat([plain.theta[: field.num_weights], self.dissipation.start()])
        return self.about(FeatureSolution.settled(field, pairs, start, noise_std))

    def about(self, solution: Solution) -> FeatureRegression:
        """The same about this solution, where that matters."""
        if self.exact or not isinstance(solution, FeatureSolution):
            return self
        return replace(self, centre=solution)

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """The energy's."""
        return self.energy.hyperpriors(spread)

    def redraw(self, seed: int) -> FeatureRegression:
        """Other features."""
        return replace(self, energy=self.energy.redraw(seed))

    def evidence(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> Float[Tensor, ""]:
        """``log N(y; r, Psi V Psi' + Sigma)``, in the smaller of the two spaces."""
        field = HamiltonianField(self.energy.basis(hyperparameters), self.dissipation)
        rows, target = self._linear(field, pairs, rho)
        rows = rows * field.basis.prior_variance.sqrt()
        law = _law(pairs, noise_std, rows)
        rows, target = law.white(rows), law.white(target)
        wide = rows.shape[0] < rows.shape[1]
        gram = rows @ rows.mT if wide else rows.mT @ rows
        factor = cholesky(gram + torch.eye(len(gram)).to(gram), WEIGHTS)
        right = (target if wide else rows.mT @ target).unsqueeze(-1)
        white = torch.linalg.solve_triangular(factor, right, upper=False)
        fitted = (white**2).sum()
        quadratic = fitted if wide else (target**2).sum() - fitted
        logdet = 2.0 * (factor.diagonal().log().sum() + law.log_det)
        return gaussian_log_density(quadratic, logdet, len(target))

    def solve(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> FeatureSolution:
        """Ridge regression at this friction, then one Gauss-Newton step."""
        field = HamiltonianField(self.energy.basis(hyperparameters), self.dissipation)
        rows, target = self._linear(field, pairs, rho)
        stddev = field.basis.prior_variance.sqrt()
        law = _law(pairs, noise_std, rows * stddev)
        weights, _ = _ridge(law.white(rows * stddev), law.white(target))
        start = torch.cat([stddev * weights, rho])
        return FeatureSolution.about(field, pairs, start, noise_std)

    def _linear(
        self, field: HamiltonianField, pairs: Pairs, rho: Float[Tensor, " k"]
    ) -> tuple[Float[Tensor, "observations weights"], Float[Tensor, " observations"]]:
        """``Psi``, and the rates without what the model adds that is not ``Psi w``.

        About the centre ``f = (J - dd/dg) (grad phi w + r) + (dd/dg) g_0 - d(z, g_0)`` with its
        slopes ``g_0`` and ``r`` the remainder of the energy's gradient, at the friction given.
        """
        z = pairs.z
        if self.centre is None:
            return field.features(z, rho)[pairs.observed], pairs.values
        known = self.centre
        w, _, _ = known.field.parts(known.theta)
        slope = known.field.basis.gradient_map(w)(z).detach()
        turn = field.turn(z, slope, rho)
        rows, rates = turn @ field.basis.feature_gradient(z, w), pairs.rates
        own = field.basis.remainder(z, w)
        if own is not None:
            rates = rates - (turn @ own.unsqueeze(-1)).squeeze(-1)
        if not self.dissipation.constant:
            onto = self.dissipation.slope_jacobian(z, slope, rho) @ slope.unsqueeze(-1)
            rates = rates - onto.squeeze(-1) + self.dissipation.force(z, slope, rho)
        return rows[pairs.observed], rates[pairs.observed]


@dataclass(frozen=True)
class FeatureSolution(Solution):
    """``theta = (w, rho)`` with its precision.

    Attributes:
        field: features and friction.
        pairs: the data.
        theta: (P + K,) mode.
        factor: lower Cholesky factor of the precision.
    """

    field: HamiltonianField
    pairs: Pairs
    theta: Float[Tensor, " params"]
    factor: Float[Tensor, "params params"]
    squares: Float[Tensor, " dim"]
    degrees: Float[Tensor, " dim"]

    @classmethod
    def about(
        cls,
        field: HamiltonianField,
        pairs: Pairs,
        start: Float[Tensor, " params"],
        noise_std: Float[Tensor, " dim"],
    ) -> FeatureSolution:
        """Solve the model that is linear about ``start``; halve the step until it leads down."""
        jacobian = field.parameter_jacobian(pairs.z, start)[pairs.observed]
        rest = field.remainder(pairs.z, start)
        target = pairs.values if rest is None else pairs.values - rest[pairs.observed]
        stddev = field.prior_precision().rsqrt()
        num = field.num_weights
        law = _law(pairs, noise_std, jacobian[:, :num] * stddev[:num])
        rows = law.white(jacobian) * stddev
        mean, white = _ridge(rows, law.white(target))

        def off(theta: Tensor) -> tuple[float, Tensor]:
            residual = pairs.values - _rates(field, pairs.z, theta)[pairs.observed]
            own = law.white(residual).square().sum() + (theta / stddev).square().sum()
            return float(own.nan_to_num(nan=math.inf)), residual

        theta, (before, _) = stddev * mean, off(start)
        value, residual = off(theta)
        for _ in range(HALVINGS):
            if value <= before + SLACK * abs(before):
                break
            theta = 0.5 * (start + theta)
            value, residual = off(theta)
        used = torch.linalg.solve_triangular(white, rows.mT, upper=False).square().sum(0)
        factor = white / stddev.unsqueeze(-1)
        return cls(field, pairs, theta, factor, *law.by_channel(residual, used))

    @classmethod
    def settled(
        cls,
        field: HamiltonianField,
        pairs: Pairs,
        start: Float[Tensor, " params"],
        noise_std: Float[Tensor, " dim"],
    ) -> FeatureSolution:
        """The solution about itself, or where so many steps lead."""
        for _ in range(STEPS):
            solution = cls.about(field, pairs, start, noise_std)
            moved = ((solution.theta - start) * field.prior_precision().sqrt()).abs().max()
            start = solution.theta
            if not float(moved) > CLOSE:
                break
        return solution

    @property
    def rho(self) -> Float[Tensor, " k"]:  # type: ignore[override]
        """The friction's mode."""
        return self.theta[self.field.num_weights :]

    def rates(self, z: Float[Tensor, "points dim"]) -> Float[Tensor, "points dim"]:
        """The field at the mode."""
        return _rates(self.field, z, self.theta)

    def slope(self, z: Float[Tensor, "points dim"]) -> Float[Tensor, "points dim dim"]:
        """Its derivatives by the state."""
        return self.field.jacobian(z, self.theta)

    def refined(self, noise_std: Float[Tensor, " dim"]) -> FeatureSolution:
        """One Gauss-Newton step."""
        return FeatureSolution.about(self.field, self.pairs, self.theta, noise_std)

    def component(self, noise: NoiseFit, hyperparameters: Hyperparameters) -> Component:
        """A Gaussian in the weights."""
        return GaussianComponent(
            field=self.field,
            theta=self.theta,
            factor=self.factor,
            noise_std=noise.std,
            noise_shape=noise.shape,
            noise_rate=noise.rate,
            noise_group=noise.group,
            noise_dof=None,
            hyperparameters=hyperparameters,
            states=None,
            anchors=chosen_states(self.pairs.z),
        )


def _rates(
    field: HamiltonianField, z: Float[Tensor, "points dim"], theta: Float[Tensor, " params"]
) -> Float[Tensor, "points dim"]:
    """``J grad H - d(z, grad H)``."""
    w, _, rho = field.parts(theta)
    slope = field.basis.gradient_map(w)(z)
    return slope @ field.symplectic(theta).mT - field.dissipation.force(z, slope, rho)


def _ridge(
    rows: Float[Tensor, "observations weights"], target: Float[Tensor, " observations"]
) -> tuple[Float[Tensor, " weights"], Float[Tensor, "weights weights"]]:
    """Mean of standard normal weights given ``target = rows w + N(0, 1)``, and a root.

    That is the lower Cholesky factor of their precision.
    """
    factor = cholesky(rows.mT @ rows + torch.eye(rows.shape[1]).to(rows), WEIGHTS)
    return torch.cholesky_solve((rows.mT @ target).unsqueeze(-1), factor).squeeze(-1), factor


def _law(
    pairs: Pairs,
    noise_std: Float[Tensor, " dim"],
    rows: Float[Tensor, "observations weights"],
) -> RateNoise:
    """Noise that rounding does not drown; ``rows`` are a root of the rates' prior covariance."""
    return RateNoise.of(pairs, noise_std, JITTER * rows.square().sum(-1).mean())
