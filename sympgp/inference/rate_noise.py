"""The law of measured rates: noise of one level a channel, with known errors of the states or not.

Without noise of the states rates are independent, ``N(0, s_c^2)``. With it those of one state have
the covariance ``C = diag(s^2) + K``; rows are then whitened by its Cholesky factor. The score of
``log s_c^2``, with the fit's leverages h of the white rows,

    1/2 sum_i (s_c^2 (C^-1 r)_c^2 - s_c^2 [L^-T (1 - h) L^-1]_cc),    C = L L',

and its information ``1/2 sum_i (s_c^2 (C^-1)_cc)^2`` stand in for residual sums of squares and
numbers of observations, which they are where K is zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.inference.pairs import Pairs

LEAST = 0.1
"""Factor by which one step may lower a variance that is not seen alone."""


def rate_factor(
    noise_std: Float[Tensor, "*draws dim"],
    covariance: Float[Tensor, "points dim dim"],
    observed: Bool[Tensor, "points dim"],
) -> Float[Tensor, "*draws points dim dim"]:
    """Lower Cholesky factor of ``diag(s^2) + K`` of the rates that were measured, one elsewhere."""
    seen = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    whole = torch.diag_embed(noise_std**2).unsqueeze(-3) + covariance
    blank = torch.diag_embed((~observed).to(covariance))
    whole = torch.where(seen, whole, blank)
    return cholesky(whole, "the covariance of the measured rates")


@dataclass(frozen=True)
class RateNoise:
    """What whitens the measured rates of pairs.

    Attributes:
        pairs: the data.
        std: (R,) of each measured rate's own noise.
        factor: (N, D, D) of the covariances of whole states; None where rates are independent.
    """

    pairs: Pairs
    std: Float[Tensor, " rates"]
    factor: Float[Tensor, "points dim dim"] | None

    @classmethod
    def of(
        cls, pairs: Pairs, noise_std: Float[Tensor, " dim"], jitter: Tensor | float = 0.0
    ) -> RateNoise:
        """At noise levels, with a little more of variance that keeps rounding away."""
        level = (noise_std**2 + jitter).sqrt()
        factor = None
        if pairs.covariance is not None:
            factor = rate_factor(level, pairs.covariance, pairs.observed)
        return cls(pairs, level[pairs.channel], factor)

    def white(self, values: Float[Tensor, "rates *rest"]) -> Float[Tensor, "rates *rest"]:
        """Rows of unit noise."""
        if self.factor is None:
            return values / self.std.view(-1, *(1,) * (values.dim() - 1))
        return self._solved(values, False)

    @property
    def log_det(self) -> Float[Tensor, ""]:
        """Half the log determinant of the covariance."""
        if self.factor is None:
            return self.std.log().sum()
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum()

    def by_channel(
        self, residual: Float[Tensor, " rates"], leverage: Float[Tensor, " rates"]
    ) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Sums of squared residuals and observations used up, see the module.

        Args:
            residual: not whitened.
            leverage: diagonal of the hat matrix of the white rows.
        """
        pairs = self.pairs
        if self.factor is None:
            return pairs.per_channel(residual**2), pairs.per_channel(leverage)
        own, variance = self.factor, self.std**2
        eye = torch.eye(own.shape[-1]).to(own).expand_as(own)
        root = torch.linalg.solve_triangular(own, eye, upper=False)
        kept = torch.ones_like(pairs.rates)
        kept[pairs.observed] = 1.0 - leverage
        share = variance * root.square().sum(-2)[pairs.observed]
        left = variance * (kept.unsqueeze(-1) * root.square()).sum(-2)[pairs.observed]
        weighed = self._solved(self._solved(residual, False), True)
        spare = pairs.per_channel(share * left)
        score = pairs.per_channel((variance * weighed).square() - variance * left)
        total = pairs.per_channel(variance * share * left)
        squares = torch.maximum(total + score, LEAST * total)
        return squares, pairs.counts - spare

    def _solved(self, values: Tensor, turned: bool) -> Tensor:
        """``L^-1`` or ``L^-T`` times the rows of each state."""
        observed, factor = self.pairs.observed, self.factor
        if factor is None:
            raise RuntimeError("these rates are independent")
        flat = values.reshape(len(values), -1)
        wide = flat.new_zeros(*observed.shape, flat.shape[1]).index_put((observed,), flat)
        if turned:
            found = torch.linalg.solve_triangular(factor.mT, wide, upper=True)
        else:
            found = torch.linalg.solve_triangular(factor, wide, upper=False)
        return found[observed].reshape(values.shape)


def log_density_of_rates(
    rest: Float[Tensor, "draws points dim"],
    noise_std: Float[Tensor, "draws dim"],
    covariance: Float[Tensor, "points dim dim"],
    observed: Bool[Tensor, "points dim"],
    shift: Float[Tensor, "draws points dim"] | float = 0.0,
) -> Float[Tensor, "draws points dim"]:
    """Log densities of residuals, whitened and moved by ``shift``; they are to be summed."""
    factor = rate_factor(noise_std, covariance, observed)
    own = (rest * observed).unsqueeze(-1)
    white = torch.linalg.solve_triangular(factor, own, upper=False).squeeze(-1) - shift
    logs = factor.diagonal(dim1=-2, dim2=-1).log()
    return -0.5 * white.square() - logs - 0.5 * math.log(2.0 * math.pi)
