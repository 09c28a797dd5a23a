"""The posterior over a field that was learned from pairs of states and derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.integrators import Integrator
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior import found, prediction
from sympgp.posterior.course import as_times
from sympgp.posterior.diagnostics import Diagnostics
from sympgp.posterior.draws import FunctionDraws, Marginal, mixture_moments
from sympgp.posterior.exact_component import ExactComponent
from sympgp.posterior.field import FieldPosterior
from sympgp.posterior.identification import identification
from sympgp.rollouts import Rollouts
from sympgp.trajectories import StateDerivatives

if TYPE_CHECKING:
    from gpytorch.distributions import MultitaskMultivariateNormal
else:
    MultitaskMultivariateNormal = Any


class RateDraws(FunctionDraws):
    """Functions drawn from a posterior whose noise is that of dx/dt."""

    @property
    def noise_std(self) -> Float[Tensor, "draws dim"]:
        """Noise of the derivatives under each draw, user units of dx/dt."""
        scaled = torch.cat([part.noise_std for part in self._parts])
        return (scaled * self._scaling.velocity_scale).to(self._dtype)


@dataclass(frozen=True, eq=False)
class DerivativePosterior(FieldPosterior):
    """Posterior over ``dx/dt = (J - R) grad H(x)`` from pairs (x, dx/dt).

    It is about the field alone: ``noise_std`` is the noise of dx/dt, states were taken as exact or
    had the known noise of the data. Rollouts start anywhere; there are no training trajectories to
    continue, and what will be measured of new ones is not said, so that predictive bands of states
    are refused.

    Attributes:
        components: Gaussians in the weights, or Gaussian processes; scaled units.
        scaling: between scaled and user units.
        dissipation_family: the prior family of R.
        data: the pairs.
        diagnostics: what the engine noticed.
        counterfactual: whether R was set to zero after the fit.
    """

    data: StateDerivatives
    diagnostics: Diagnostics
    counterfactual: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates, q first."""
        return self.data.names

    @property
    def units(self) -> dict[str, str]:
        """Units by name, "time" among them where known."""
        return self.data.units

    def vector_field(
        self, x: Any, joint: bool = False, u: Any = None, covariates: Any = None
    ) -> Marginal | MultitaskMultivariateNormal:
        """Posterior of ``f(x) = (J - R) grad H(x)``, see :meth:`FieldPosterior.vector_field`.

        Args:
            x: (B, 2n) states.
            u: for fields with inputs only.
            covariates: for fields that differ by trajectory only, which none of these is.
            joint: return the joint Gaussian over all points and coordinates; its covariance is
                dense for exact Gaussian processes.

        Raises:
            ValueError: states of another width.
        """
        exact = [c for c in self.components if isinstance(c, ExactComponent)]
        if not joint or not exact:
            return super().vector_field(x, joint, u, covariates)
        return _joint_field(exact, self.scaling, self._scaled_states(x))

    def noise(self) -> Marginal:
        """Posterior of each channel's noise standard deviation, (2n,), user units of dx/dt."""
        moments = [component.noise_moments() for component in self.components]
        scaled = mixture_moments(*zip(*moments, strict=True))
        unit = self.scaling.velocity_scale
        return Marginal(scaled.mean * unit, scaled.stddev * unit).to(self.dtype)

    def _draw(self, num_samples: int, generator: torch.Generator) -> FunctionDraws:
        draws = super()._draw(num_samples, generator)
        return RateDraws(draws.parts, self.scaling, torch.zeros_like(self.scaling.center))

    def rollout(
        self,
        x0: Any,
        times: Any,
        num_samples: int = 100,
        integrator: Integrator | None = None,
        inputs: None = None,
        seed: int = 0,
    ) -> Rollouts:
        """Start trajectories: every draw of the field from every initial state.

        Args:
            x0: (N, 2n) or (2n,) states at ``times[0]``, exact.
            times: (T,) increasing.
            num_samples: draws S.
            integrator: as for ``Posterior.rollout``; its step is in user time.
            inputs: for fields with inputs only.
            seed: of the draws.

        Returns:
            Samples of shape (S, N, T, 2n); their ``band`` is latent, since no noise of states is
            known. Draws that diverged are marked and warned about.

        Raises:
            ValueError: states of another width, not finite, or times that do not increase.
        """
        if inputs is not None:
            raise ValueError("inputs: expected None, since this field has no inputs")
        z0 = self._scaled_states(x0, "x0")
        if not bool(z0.isfinite().all()):
            raise ValueError("x0: expected finite states, got NaN or infinity")
        own: Any = self  # it has all that a rollout asks of a posterior
        result = prediction.rollout(
            own, z0, as_times(times), num_samples, integrator, seed, False, None
        )
        result.noise_std = None
        return result

    def without_dissipation(self) -> DerivativePosterior:
        """The counterfactual: the same posterior over H with R = 0 in every draw."""
        components = tuple(replace(c, field=c.field.undamped()) for c in self.components)
        return replace(self, components=components, counterfactual=True)

    def summary(self) -> str:
        """What was found and what to worry about, as text."""
        return summarize(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Write one file that ``torch.load(weights_only=True)`` and ``sympgp.load`` read.

        Raises:
            ValueError: a base kernel that is code; a file that cannot be written.
        """
        from sympgp.posterior.derivative_storage import save  # it rebuilds posteriors

        save(self, path)


def _joint_field(
    components: Sequence[ExactComponent],
    scaling: CanonicalScaling,
    z: Float[Tensor, "batch dim"],
) -> MultitaskMultivariateNormal:
    """Joint Gaussian of the field at all points: the mixture's mean and covariance, user units."""
    from gpytorch.distributions import MultitaskMultivariateNormal

    moments = [component.joint_moments(z) for component in components]
    mean = torch.stack([m for m, _ in moments]).mean(0)
    cov = torch.stack([c for _, c in moments]).mean(0)
    for own, _ in moments:
        apart = (own - mean).flatten()
        cov = cov + torch.outer(apart, apart) / len(components)
    unit = scaling.velocity_scale.repeat(len(z))
    return MultitaskMultivariateNormal(mean * scaling.velocity_scale, cov * torch.outer(unit, unit))


def summarize(posterior: DerivativePosterior) -> str:
    """Several lines of text, see ``DerivativePosterior.summary``."""
    data, diagnostics = posterior.data, posterior.diagnostics
    lines = [
        f"Posterior of {posterior.num_dof} degree(s) of freedom from {len(data)} pairs of states "
        f"and derivatives, {data.num_observations} observations ({diagnostics.engine}, "
        f"{diagnostics.seconds:.1f} s, {found.made_of(posterior.components)})"
    ]
    noise = posterior.noise()
    for k, name in enumerate(posterior.names):
        lines.append(
            f"  noise of d {name} / dt: {float(noise.mean[k]):.4g} +- {float(noise.stddev[k]):.2g}"
        )
    lines += found.dissipation_lines(posterior)
    lines += [f"  {sentence}" for sentence in identification(posterior)]
    lines += found.physics_lines(posterior)
    lines += found.lengthscale_lines(posterior)
    worries = _worries(posterior)
    lines.append("To worry about:" if worries else "Nothing to worry about was found.")
    lines.extend(f"  - {worry}" for worry in worries)
    return "\n".join(lines)


def _unit(units: dict[str, str], name: str) -> str:
    return f" {units[name]}" if name in units else ""


def _worries(posterior: DerivativePosterior) -> list[str]:
    data, diagnostics = posterior.data, posterior.diagnostics
    worries = list(diagnostics.notes)
    if posterior.counterfactual:
        worries.append("dissipation was set to zero after the fit: this is a counterfactual")
    if not diagnostics.converged:
        worries.append("a search ended before its tolerance: the optimum may not be the best one")
    noise, field = posterior.noise_std, posterior.vector_field(data.states)
    variance = noise**2 + field.stddev**2 + _of_states(posterior)
    residual = (data.derivatives - field.mean) / variance.sqrt()
    size = data.derivatives.square().nanmean(0).sqrt()
    for k, name in enumerate(posterior.names):
        if float(noise[k] / size[k]) > 0.9:
            worries.append(
                f"the model explains little of d {name} / dt: its noise is "
                f"{float(noise[k] / size[k]):.0%} of it"
            )
        far = int((residual[:, k].abs() > OUTLYING).sum())
        if far:
            worries.append(
                f"{far} derivatives of {name} are more than {OUTLYING:.0f} noise deviations off: "
                "outliers, or a noise that is not Gaussian"
            )
    worries.extend(found.physics_worries(posterior))
    worries.extend(found.friction_worries(posterior))
    return worries


def _of_states(posterior: DerivativePosterior) -> Tensor | float:
    """Variance (N, 2n) of the rates that noise of the states makes, by symmetric differences."""
    data = posterior.data
    if data.state_noise is None:
        return 0.0
    found: Tensor = torch.zeros_like(data.states)
    for shift in torch.diag(data.state_noise):
        ends = [posterior.vector_field(data.states + s * shift).mean for s in (1, -1)]
        found = found + (0.5 * (ends[0] - ends[1])).square()
    return found


OUTLYING = 5.0
"""Deviations beyond which a Gaussian residual is not expected."""
