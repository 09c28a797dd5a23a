"""Densities of each observation that leaving it out needs, draw by draw."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from sympgp.posterior.settled import Settled, observed
from sympgp.shooting.density import JointDensity


class Entries(NamedTuple):
    """Log densities of each observation ``y_i`` under each draw of the parameters, (S, n_obs).

    Attributes:
        within: ``log p(y_i | draw, y)``.
        left_out: ``log p(y_i | draw, y_-i)``.
        removed: ``log p(draw | y) - log p(draw | y_-i)``, up to what is the same for all draws.
    """

    within: Float[Tensor, "draws observations"]
    left_out: Float[Tensor, "draws observations"]
    removed: Float[Tensor, "draws observations"]

    @classmethod
    def given_states(
        cls,
        log_likelihood: Float[Tensor, "draws observations"],
        share: Float[Tensor, " observations"],
    ) -> Entries:
        """For draws that know the states: observations are independent given the draw.

        Args:
            log_likelihood: of each observation given the draw.
            share: how many independent observations each one counts as.
        """
        return cls(log_likelihood, log_likelihood, share * log_likelihood)

    @classmethod
    def integrated(
        cls,
        settled: Settled,
        density: JointDensity,
        noise_std: Float[Tensor, "draws dim"],
        share: Float[Tensor, " observations"],
    ) -> Entries:
        """With the states integrated out under Gaussian noise, scaled units.

        Given all data and a draw the latent value is ``N(f, h)``. Without an observation that
        counts as ``1 / tau``, with ``a = h / (tau sigma^2)`` and ``r = y - f``, it is
        ``N(y - r / (1 - a), h / (1 - a))``: exact where paths are linear in their first states.

        Source: Vehtari, Mononen, Tolvanen, Sivula and Winther, *Bayesian leave-one-out
        cross-validation approximations for Gaussian latent variable models*, JMLR 17 (2016).
        """
        nodes = density.nodes
        index = density.windows.nodes
        values = observed(density, nodes.values[index].unsqueeze(0))
        wide = noise_std[:, None, None, :].expand(-1, *index.shape, -1)
        noise = observed(density, wide).square()
        residual, tempered = values - settled.mean, noise / share
        known = (settled.variance / tempered).clamp(max=1.0 - 1e-9)
        apart, spread = residual / (1.0 - known), settled.variance / (1.0 - known)
        constant = 0.5 * ((2.0 * math.pi * tempered).log() - share * (2.0 * math.pi * noise).log())
        return cls(
            _normal(residual, noise + settled.variance),
            _normal(apart, noise + spread),
            _normal(apart, tempered + spread) + constant,
        )

    def per_unit(self, log_unit: Float[Tensor, " observations"]) -> Entries:
        """Densities per user unit from those per scaled one."""
        return Entries(self.within - log_unit, self.left_out - log_unit, self.removed)


def _normal(residual: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (residual.square() / variance + (2.0 * math.pi * variance).log())
