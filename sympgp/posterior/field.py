"""What a posterior says about the field: moments and draws of everything that it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.dissipation import Dissipation, LinearDissipation
from sympgp.energies.slope import WITHOUT_ENERGY
from sympgp.fields import as_points
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior import prediction
from sympgp.posterior.component import Component
from sympgp.posterior.draws import (
    Draws,
    FunctionDraws,
    Marginal,
    mixture_moments,
    new_context,
    scaled_states,
    with_inputs,
)
from sympgp.posterior.forms import SpecialForms
from sympgp.posterior.parameters import DrawnMarginal, parameters
from sympgp.trajectories.signals import Interpolation, Signal, as_signal

if TYPE_CHECKING:
    from gpytorch.distributions import MultitaskMultivariateNormal
else:
    MultitaskMultivariateNormal = Any


Own = TypeVar("Own", bound="FieldPosterior")

SOME_DRAWS = 200
"""Draws of input matrices."""


@dataclass(frozen=True, eq=False)
class FieldPosterior(SpecialForms, ABC):
    """Posterior over ``dx/dt = J grad H - d(x, grad H) + G u`` and the noise, no trajectory yet.

    Attributes:
        components: what it is a mixture of, in scaled units.
        scaling: between scaled and user units.
        dissipation_family: the prior family of the dissipation.
        dtype: floating-point type of what it tells; draws are solved in it, too.
    """

    components: tuple[Component, ...]
    scaling: CanonicalScaling
    dissipation_family: Dissipation
    dtype: torch.dtype = field(default=torch.float64, kw_only=True)

    def in_dtype(self: Own, dtype: torch.dtype) -> Own:
        """The same posterior that tells everything in another type.

        What it is made of is float64 in any case: covariances need the digits.
        """
        if any(c.field.dtype != torch.float64 for c in self.components):
            parts = (replace(c, field=c.field.to(torch.float64)) for c in self.components)
            return replace(self, components=tuple(parts), dtype=dtype)
        return self if dtype == self.dtype else replace(self, dtype=dtype)

    @property
    def num_dof(self) -> int:
        """Degrees of freedom n."""
        return self.scaling.num_dof

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates, q first."""

    @property
    def angles(self) -> dict[str, float]:
        """Coordinates that are angles to the energy, by name, and their periods in user units."""
        angles = self.components[0].field.basis.angles
        return {self.names[k]: period for k, period in angles.items()}

    @property
    def num_inputs(self) -> int:
        """Number m of inputs of the field."""
        return self.components[0].field.num_inputs

    @property
    def has_energy(self) -> bool:
        """Whether there is an H; the field of a neural ODE has none."""
        return all(component.field.basis.has_energy for component in self.components)

    @property
    def interpolation(self) -> Interpolation:
        """Of inputs between samples."""
        return self.components[0].field.inputs.interpolation

    def vector_field(
        self, x: Any, joint: bool = False, u: Any = None, covariates: Any = None
    ) -> Marginal | MultitaskMultivariateNormal:
        """Posterior of ``f(x, u) = J grad H(x) - d(x, grad H(x)) + G(x) u``.

        Args:
            x: (B, 2n) states.
            u: (B, m) or (m,) inputs; none, that is zero, when None.
            joint: return the joint Gaussian over all points and coordinates, with a low-rank
                covariance, in place of marginals.
            covariates: where parameters differ by trajectory, the field is that of a new one;
                these are its covariates (C,), or (B, C), where a parameter depends on them.

        Returns:
            ``.mean`` and ``.stddev`` of shape (B, 2n), user units of dx/dt.

        Raises:
            ValueError: states or inputs of another width; covariates missing or wrong.
        """
        z = with_inputs(self._scaled_states(x), u, self.num_inputs)
        z = as_points(z, new_context(self.components[0].field, covariates))
        if joint:
            return prediction.joint_field(self.components, self.scaling, z, self.dtype)
        moments = [component.field_moments(z) for component in self.components]
        scaled = mixture_moments(*zip(*moments, strict=True))
        unit = self.scaling.velocity_scale
        return Marginal(scaled.mean * unit, scaled.stddev * unit).to(self.dtype)

    def hamiltonian(self, x: Any, reference: Any = None, covariates: Any = None) -> Marginal:
        """Posterior of ``H(x) - H(reference)``.

        Args:
            x: (B, 2n) states.
            reference: (2n,) state; the data's mean state when None.
            covariates: (C,), as for :meth:`vector_field`.

        Returns:
            ``.mean`` and ``.stddev`` of shape (B,), user units.

        Raises:
            TypeError: the field has no energy.
            ValueError: states of another width; covariates missing or wrong.
        """
        if not self.has_energy:
            raise TypeError(WITHOUT_ENERGY)
        z = self._scaled_states(x)
        context = new_context(self.components[0].field, covariates)
        if context is not None and len(context) > 1:
            raise ValueError(f"covariates: expected one trajectory's, got {len(context)} rows")
        anchor = torch.zeros_like(self.scaling.center)
        if reference is not None:
            anchor = self._scaled_states(reference, "reference")[0]
        row = None if context is None else context[0]
        z, anchor = as_points(z, row), as_points(anchor, row)
        moments = [component.energy_moments(z, anchor) for component in self.components]
        scaled = mixture_moments(*zip(*moments, strict=True))
        unit = self.scaling.energy_scale
        return Marginal(scaled.mean * unit, scaled.stddev * unit).to(self.dtype)

    def dissipation(self) -> Marginal:
        """Posterior of the dissipation's coefficients; zero without dissipation.

        A number for ``Friction``, (n,) for ``DiagonalFriction``, (n, n) for ``MatrixFriction``; of
        other families what their ``coefficients`` are. Where these are no linear function of a
        Gaussian, moments are those of draws.
        """
        moments = []
        for component in self.components:
            family = component.field.dissipation
            if isinstance(family, LinearDissipation):
                mean, variance = component.damping_moments()
                own = family.coefficients(mean), family.coefficients(variance.sqrt()) ** 2
            else:
                drawn = family.coefficients(component.damping_draws)
                own = drawn.mean(0), drawn.var(0)
            moments.append(own)
        return mixture_moments(*zip(*moments, strict=True)).to(self.dtype)

    def dissipation_matrix(self, x: Any) -> Float[Tensor, "batch dim dim"]:
        """Posterior mean of R(x) at states (B, 2n): (B, 2n, 2n), user units.

        Raises:
            TypeError: a dissipation that is no matrix times grad H, such as ``Rayleigh``.
        """
        z = self._scaled_states(x)
        dim, means = z.shape[1], []
        for component in self.components:
            family = component.field.dissipation
            if isinstance(family, LinearDissipation):
                means.append(family.matrix(component.damping_moments()[0]).expand(len(z), dim, dim))
                continue
            draws = component.damping_draws
            found = family.matrix(draws, z.expand(len(draws), *z.shape)).mean(0)
            means.append(found.expand(len(z), dim, dim))
        scale = self.scaling.scale
        found = torch.stack(means).mean(0) * torch.outer(scale, scale) / self.scaling.kappa
        return found.to(self.dtype)

    def input_matrix(self, x: Any) -> Marginal:
        """Posterior of G(x) at states (B, 2n): (B, 2n, m), user units.

        Raises:
            ValueError: states of another width.
        """
        z, moments = self._scaled_states(x), []
        for component in self.components:
            theta, _, _ = component.sample(SOME_DRAWS, torch.Generator().manual_seed(0))
            field = component.field
            _, gamma, _ = field.parts(theta)
            found = field.inputs.matrix(z.expand(len(theta), *z.shape), gamma)
            moments.append((found.mean(0), found.var(0)))
        scaled = mixture_moments(*zip(*moments, strict=True))
        unit = self.scaling.velocity_scale.unsqueeze(-1)
        return Marginal(scaled.mean * unit, scaled.stddev * unit).to(self.dtype)

    def parameters(self, nearest: bool = False, covariates: Any = None) -> dict[str, DrawnMarginal]:
        """Posterior of what has a name: parameters of formulas, and a mass matrix as "mass".

        Beside a learned part of the energy, forces that nobody modelled may act as a change of a
        parameter would. The formula closest to the whole field over the data is known well; the
        parameter itself only up to such a change, as large as the learned part's scales allow.

        A parameter k that differs by trajectory is the population's median under "k", or that of
        trajectories with these covariates; each trajectory's own under "k[label]", beside learned
        parts that of the closest formula. Of pooled ones there are "k[new]", of a trajectory that
        is not among the data, and "k spread", half the width of the central 68% of trajectories.

        Args:
            nearest: of the closest formula, in place of the parameter itself.
            covariates: (C,) where a parameter depends on them; the data's means when None.

        Returns:
            By name, ``.mean``, ``.stddev``, ``.quantile(probability)`` and ``.interval(level)``,
            user units; () for parameters and (n, n) for the mass.

        Raises:
            ValueError: covariates of another number, not finite, or on which nothing depends.
        """
        found = parameters(self, nearest, covariates)
        return {name: known.to(self.dtype) for name, known in found.items()}

    def noise(self) -> Marginal:
        """Posterior of each channel's noise standard deviation, (2n,), user units.

        Of Student's t noise it is that of the scale; NaN of a channel without any observation.
        """
        moments = [component.noise_moments() for component in self.components]
        scaled = mixture_moments(*zip(*moments, strict=True))
        unit = torch.where(self.unobserved, torch.nan, self.scaling.scale)
        return Marginal(scaled.mean * unit, scaled.stddev * unit).to(self.dtype)

    @property
    def unobserved(self) -> Bool[Tensor, " dim"]:
        """Channels without any observation, (2n,)."""
        return torch.zeros_like(self.scaling.scale, dtype=torch.bool)

    @property
    def noise_std(self) -> Float[Tensor, " dim"]:
        """Posterior mean of each channel's noise standard deviation, (2n,)."""
        return self.noise().mean

    def sample(self, num_samples: int, seed: int = 0) -> FunctionDraws:
        """Draw fields as functions, see :class:`FunctionDraws`.

        Raises:
            ValueError: a number of samples below one.
        """
        generator = torch.Generator().manual_seed(seed)
        return self._draw(num_samples, generator).to(self.dtype)

    def _draw(self, num_samples: int, generator: torch.Generator) -> FunctionDraws:
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(
                f"num_samples: expected a whole number of at least 1, got {num_samples!r}"
            )
        count = len(self.components)
        parts = []
        for k, component in enumerate(self.components):
            num = num_samples // count + (k < num_samples % count)
            if not num:
                continue
            theta, noise, start = component.sample(num, generator)
            weights, _, _ = component.field.parts(theta)
            bound = component.field.bind(theta)
            parts.append(Draws(bound, component.field.basis, weights, theta, noise, start))
        # What is never observed has no noise to be seen with.
        unit = torch.where(self.unobserved, 0.0, self.scaling.scale)
        return FunctionDraws(parts, self.scaling, torch.zeros_like(self.scaling.center), unit)

    def _signal(self, inputs: Any, times: list[float]) -> Signal | None:
        """Inputs of new paths, checked.

        Raises:
            ValueError: inputs that are missing, not asked for, or wrong.
        """
        if not self.num_inputs and inputs is None:
            return None
        grid = torch.tensor(times, dtype=torch.float64).to(self.scaling.center)
        return as_signal(inputs, grid, self.num_inputs, self.interpolation)

    def _scaled_states(self, x: Any, name: str = "x") -> Float[Tensor, "batch dim"]:
        return scaled_states(self.scaling, x, name)
