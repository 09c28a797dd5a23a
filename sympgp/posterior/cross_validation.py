"""How well a posterior predicts each of its own observations from the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.posterior.importance import (
    LIMIT,
    Importance,
    WeightedDraws,
    pareto_smoothed,
    weighted_draws,
    weights,
)

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any

UNSURE = 0.4
"""Posterior variance of a log density beyond which WAIC is not to be trusted."""


@dataclass(frozen=True, eq=False)
class PredictiveDensity:
    """Estimated log predictive densities of the data that a posterior was learned from.

    Attributes:
        pointwise: (n_obs,) of each observation given the others, user units; order trajectory,
            time, coordinate, missing ones left out.
        flexibility: (n_obs,) how much more likely each one is with itself among the data; the sum
            is the effective number of parameters.
        pareto_k: (n_obs,) of the importance weights that leave it out; NaN for WAIC.
        monte_carlo_error: of the sum, from the finite number of draws.
        worries: what is not to be trusted, in plain words.
    """

    pointwise: Float[Tensor, " observations"]
    flexibility: Float[Tensor, " observations"]
    pareto_k: Float[Tensor, " observations"]
    monte_carlo_error: float
    worries: tuple[str, ...]

    @property
    def total(self) -> float:
        """The sum over all observations."""
        return float(self.pointwise.sum())

    @property
    def standard_error(self) -> float:
        """Of the sum, as that of n_obs independent terms."""
        return deviation_of_sum(self.pointwise)


def loo(posterior: Posterior, num_samples: int = 1000, seed: int = 0) -> PredictiveDensity:
    """Leave-one-out predictive densities by Pareto-smoothed importance sampling.

    ``p(y_i | y_-i) = sum_s w_is p(y_i | draw_s, y_-i)`` with weights ``w_is`` proportional to
    ``p(draw_s | y) / (q(draw_s) p(y_i | draw_s, y_-i))``: draws of the approximation q are turned
    into draws of the posterior and then of the posterior without observation i in one step, and
    their product is smoothed. The states, with the jumps that a model allows, are integrated out
    given each draw where it is Gaussian; Monte Carlo draws and those under Student's t noise keep
    their own. Observations that count as less than one (their residuals are correlated) are left
    out with that share.

    Args:
        posterior: of trajectories.
        num_samples: draws.
        seed: of the draws.

    Raises:
        ValueError: fewer than 100 draws; the posterior has no trajectories, or others than it was
            learned from.

    Sources: Vehtari, Gelman and Gabry, *Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC*, Statistics and Computing 27 (2017); Magnusson, Andersen, Jonasson
    and Vehtari, *Bayesian leave-one-out cross-validation for large data*, ICML 2019, for the
    ratios of approximations.

    Example:
        >>> from sympgp.systems import Pendulum
        >>> from sympgp import SSGP, GaussNewton, fit
        >>> data = Pendulum().simulate(3, rate=5, duration=5, noise_std=0.05)
        >>> quick = GaussNewton(num_components=1)
        >>> posterior = fit(SSGP(num_features=20), data, inference=quick, progress=False)
        >>> found = loo(posterior, num_samples=200)
        >>> found.pointwise.shape
        torch.Size([156])
    """
    return loo_of(weighted_draws(posterior, num_samples, seed))


def loo_of(draws: WeightedDraws) -> PredictiveDensity:
    """Leave-one-out predictive densities from draws, see :func:`loo`."""
    own, entries = weights(draws), draws.entries
    prior = _usable(draws, own.pareto_k)
    # Draws that diverged have no weight, whatever the density of the observation left out.
    inverse = torch.where(prior.isfinite(), -entries.removed.mT, 0.0)
    smooth, k = pareto_smoothed(prior + inverse)
    pointwise = (smooth + entries.left_out.mT).logsumexp(1)
    within = (own.log_weights + entries.within.mT).logsumexp(1)
    limit = min(1.0 - 1.0 / math.log10(max(len(prior), 2)), LIMIT)
    worries = _collapse(own)
    bad = int((k > limit).sum())
    if bad:
        worries.append(
            f"{bad} of {len(k)} observations have a Pareto k above {limit:.2f} (the largest is "
            f"{float(k.max()):.2f}): their densities are unreliable"
        )
    relative = (entries.left_out.mT - pointwise.unsqueeze(1)).exp() - 1.0
    influence = torch.where(prior.isfinite(), smooth.exp() * relative, 0.0).sum(0)
    error = float(influence.square().sum().sqrt())
    return PredictiveDensity(pointwise, within - pointwise, k, error, tuple(worries))


def waic(posterior: Posterior, num_samples: int = 1000, seed: int = 0) -> PredictiveDensity:
    """The widely applicable information criterion, with weighted draws.

    ``log E[p(y_i)] - share_i Var[log p(y_i)]``, moments over the weighted draws. Cheaper than
    leave-one-out and less robust: variances above 0.4 are reported.

    Source: Watanabe, *Asymptotic equivalence of Bayes cross validation and widely applicable
    information criterion*, JMLR 11 (2010).

    Args and errors are those of :func:`loo`.
    """
    return waic_of(weighted_draws(posterior, num_samples, seed))


def waic_of(draws: WeightedDraws) -> PredictiveDensity:
    """The criterion from draws, see :func:`waic`."""
    own = weights(draws)
    density = draws.log_likelihood
    share = own.log_weights.exp().unsqueeze(-1)
    within = (own.log_weights.unsqueeze(-1) + density).logsumexp(0)
    # Draws without weight may have diverged.
    mean = torch.where(share > 0, share * density, 0.0).sum(0)
    off = torch.where(share > 0, share.sqrt() * (density - mean), 0.0)
    variance = off.square().sum(0)
    flexibility = draws.share * variance
    worries = _collapse(own)
    bad = int((variance > UNSURE).sum())
    if bad:
        worries.append(
            f"the log density of {bad} of {len(variance)} observations varies by more than "
            f"{UNSURE} among the draws: prefer leave-one-out"
        )
    relative = (density - within).exp() - 1.0
    bend = draws.share * (off.square() / share.clamp(min=torch.finfo(share.dtype).tiny) - variance)
    influence = (share * torch.where(share > 0, relative - bend, 0.0)).sum(1)
    error = float(influence.square().sum().sqrt())
    nothing = torch.full_like(variance, torch.nan)
    return PredictiveDensity(within - flexibility, flexibility, nothing, error, tuple(worries))


def _usable(draws: WeightedDraws, pareto_k: tuple[float, ...]) -> Tensor:
    """Log ratios normalised within each component; zero ratios where they collapse."""
    parts = []
    sizes = [len(part.theta) for part in draws.parts]
    for own, k in zip(draws.log_ratio.split(sizes), pareto_k, strict=True):
        known = torch.where(own.isfinite(), 0.0, own) if k > LIMIT else own
        parts.append(known - known.logsumexp(0))
    return torch.cat(parts)


def _collapse(own: Importance) -> list[str]:
    return [] if own.note is None else [f"{own.note}; their draws were used as they are"]


def deviation_of_sum(terms: Float[Tensor, " terms"]) -> float:
    """Standard deviation of a sum of independent terms, from their own spread."""
    return float((len(terms) * terms.var(correction=0)).sqrt())
