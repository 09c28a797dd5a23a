"""What a posterior says about the field: moments and draws of everything that it is made of."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import Dissipation
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior import prediction
from sympgp.posterior.component import Component
from sympgp.posterior.draws import (
    Draws,
    FunctionDraws,
    Marginal,
    mixture_moments,
    scaled_states,
)

if TYPE_CHECKING:
    from gpytorch.distributions import MultitaskMultivariateNormal
else:
    MultitaskMultivariateNormal = Any


@dataclass(frozen=True, eq=False)
class FieldPosterior(ABC):
    """Posterior over ``dx/dt = (J - R) grad H(x)`` and the noise, without any trajectory.

    Attributes:
        components: what it is a mixture of, in scaled units.
        scaling: between scaled and user units.
        dissipation_family: the prior family of R.
    """

    components: tuple[Component, ...]
    scaling: CanonicalScaling
    dissipation_family: Dissipation

    @property
    def num_dof(self) -> int:
        """Degrees of freedom n."""
        return self.scaling.num_dof

    def vector_field(self, x: Any, joint: bool = False) -> Marginal | MultitaskMultivariateNormal:
        """Posterior of ``f(x) = (J - R) grad H(x)``.

        Args:
            x: (B, 2n) states.
            joint: return the joint Gaussian over all points and coordinates, with a low-rank
                covariance, in place of marginals.

        Returns:
            ``.mean`` and ``.stddev`` of shape (B, 2n), user units of dx/dt.

        Raises:
            ValueError: states of another width.
        """
        z = self._scaled_states(x)
        if joint:
            return prediction.joint_field(self.components, self.scaling, z)
        moments = [component.field_moments(z) for component in self.components]
        scaled = mixture_moments(*zip(*moments, strict=True))
        unit = self.scaling.velocity_scale
        return Marginal(scaled.mean * unit, scaled.stddev * unit)

    def hamiltonian(self, x: Any, reference: Any = None) -> Marginal:
        """Posterior of ``H(x) - H(reference)``.

        Args:
            x: (B, 2n) states.
            reference: (2n,) state; the data's mean state when None.

        Returns:
            ``.mean`` and ``.stddev`` of shape (B,), user units.

        Raises:
            ValueError: states of another width.
        """
        z = self._scaled_states(x)
        anchor = torch.zeros_like(self.scaling.center)
        if reference is not None:
            anchor = self._scaled_states(reference, "reference")[0]
        moments = [component.energy_moments(z, anchor) for component in self.components]
        scaled = mixture_moments(*zip(*moments, strict=True))
        unit = self.scaling.energy_scale
        return Marginal(scaled.mean * unit, scaled.stddev * unit)

    def dissipation(self) -> Marginal:
        """Posterior of the dissipation parameters: () for Friction; zero without dissipation."""
        moments = [component.damping_moments() for component in self.components]
        scaled = mixture_moments(*zip(*moments, strict=True))
        unit = self.components[0].field.dissipation.unit
        shape = self.dissipation_family.reshape
        return Marginal(
            shape(scaled.mean * unit, self.num_dof), shape(scaled.stddev * unit, self.num_dof)
        )

    def dissipation_matrix(self, x: Any) -> Float[Tensor, "batch dim dim"]:
        """Posterior mean of R(x) at states (B, 2n): (B, 2n, 2n), user units."""
        z = self._scaled_states(x)
        means = [c.field.dissipation.matrix(c.damping_moments()[0]) for c in self.components]
        scale = self.scaling.scale
        matrix = torch.stack(means).mean(0) * torch.outer(scale, scale) / self.scaling.kappa
        return matrix.expand(len(z), *matrix.shape)

    def noise(self) -> Marginal:
        """Posterior of each channel's noise standard deviation, (2n,), user units.

        Of Student's t noise it is that of the scale.
        """
        moments = [component.noise_moments() for component in self.components]
        scaled = mixture_moments(*zip(*moments, strict=True))
        return Marginal(scaled.mean * self.scaling.scale, scaled.stddev * self.scaling.scale)

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
        return self._draw(num_samples, generator)

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
            weights = theta[:, : component.field.num_weights]
            bound = component.field.bind(theta)
            parts.append(Draws(bound, component.field.basis, weights, theta, noise, start))
        return FunctionDraws(parts, self.scaling, torch.zeros_like(self.scaling.center))

    def _scaled_states(self, x: Any, name: str = "x") -> Float[Tensor, "batch dim"]:
        return scaled_states(self.scaling, x, name)
