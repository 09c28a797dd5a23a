"""How far a posterior's Gaussians are from the posterior itself: importance ratios of joint draws.

A Laplace approximation ``q`` of weights, friction and noise has a density, and so has the model, up
to a constant: their ratio ``p(theta, sigma, y) / q(theta, sigma)`` is one number a draw, constant
where the approximation is exact. The states are integrated out of ``p`` given each draw, since
ratios in all dimensions would say little but how many there are. Each component of a mixture is
held against its own model, with its own features and hyperparameters, and keeps its share.
"""

from __future__ import annotations

import importlib
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.posterior.component import GaussianComponent, JointDraws, normal
from sympgp.posterior.joint import inflation_of, joint_density, part_of, states_of
from sympgp.posterior.left_out import Entries
from sympgp.posterior.proposal import given_noise, log_noise
from sympgp.posterior.sampled_component import SampledComponent
from sympgp.posterior.settled import Settled, settle
from sympgp.shooting.density import JointDensity
from sympgp.trajectories import Trajectories

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any

LIMIT = 0.7
"""Pareto k beyond which importance weights are not to be trusted, however many draws there are."""
FEWEST, SHORT = 100, 25
"""Draws that tails are fitted to, and fewest of one component: below, weights stay as they are."""


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """Joint draws of a posterior with what importance sampling needs.

    Of a Gaussian component the states are drawn given each draw of the field, about whose own
    paths they are linearised; draws of the field are those of the Gaussian, which are not moved
    along ridges. Observations are in the order trajectory, time, coordinate, missing
    ones left out; densities are per user unit.

    Attributes:
        parts: the draws of each component, scaled units.
        log_likelihood: (S, n_obs) of every observation, given the states drawn.
        log_ratio: (S,) ``log p(theta, sigma, y) - log q(theta, sigma)``; zero where the draws are
            of the posterior itself, minus infinity where a path diverged.
        entries: densities of every observation for leaving it out.
        share: (n_obs,) how many independent observations each one counts as.
    """

    parts: tuple[JointDraws, ...]
    log_likelihood: Float[Tensor, "draws observations"]
    log_ratio: Float[Tensor, " draws"]
    entries: Entries
    share: Float[Tensor, " observations"]

    @property
    def component(self) -> Int[Tensor, " draws"]:
        """Which component each draw is of."""
        sizes = [len(part.theta) for part in self.parts]
        index = torch.arange(len(sizes), device=self.log_ratio.device)
        return index.repeat_interleave(torch.tensor(sizes, device=index.device))


@dataclass(frozen=True, eq=False)
class Importance:
    """Weights that turn the draws of a posterior's approximation into draws of the posterior.

    Attributes:
        log_weights: (S,) logarithms of Pareto-smoothed weights that sum to one; components have
            equal shares, and equal weights within where their ratios collapse.
        pareto_k: of each component's ratios: below 0.5 good, above 0.7 not to be trusted; minus
            infinity of draws that need no weights, NaN of too few draws to tell.
        effective_share: effective sample size over number of draws, of each component.
    """

    log_weights: Float[Tensor, " draws"]
    pareto_k: tuple[float, ...]
    effective_share: tuple[float, ...]

    @property
    def collapsed(self) -> bool:
        """Whether a component's ratios cannot be used."""
        return any(k > LIMIT for k in self.pareto_k)

    @property
    def note(self) -> str | None:
        """What a summary should say; None where the approximation is good."""
        if not self.collapsed:
            return None
        poor = [k for k in self.pareto_k if k > LIMIT]
        return (
            f"the Gaussian approximation is poor: importance weights collapse (Pareto k up to "
            f"{max(poor):.2f}) in {len(poor)} of {len(self.pareto_k)} components"
        )


def importance_weights(posterior: Posterior, num_samples: int = 400, seed: int = 0) -> Importance:
    """Importance weights of joint draws of field, noise and states.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry, *Pareto smoothed importance sampling*, JMLR 25
    (2024).

    Args:
        posterior: of trajectories.
        num_samples: draws S.
        seed: of the draws.

    Raises:
        ValueError: fewer than 100 draws; the posterior has no trajectories, or others than it was
            learned from.

    Example:
        >>> from sympgp.systems import Pendulum
        >>> from sympgp import SSGP, GaussNewton, fit
        >>> data = Pendulum().simulate(3, rate=5, duration=5, noise_std=0.05)
        >>> quick = GaussNewton(num_components=1)
        >>> posterior = fit(SSGP(num_features=20), data, inference=quick, progress=False)
        >>> found = importance_weights(posterior, num_samples=100)
        >>> round(float(found.log_weights.exp().sum()), 6)
        1.0
    """
    return weights(weighted_draws(posterior, num_samples, seed))


def weights(draws: WeightedDraws) -> Importance:
    """The weights of draws, component by component."""
    logs, ks, shares = [], [], []
    for own in draws.log_ratio.split([len(part.theta) for part in draws.parts]):
        alive, k = own.isfinite(), -math.inf
        smooth = torch.where(alive, 0.0, own)
        if not bool(alive.any()):
            smooth, k = torch.zeros_like(own), math.inf
        elif len(own) < SHORT:
            smooth, k = own, math.nan
        elif float(own[alive].max()) > float(own[alive].min()):
            lifted, found = pareto_smoothed(own.unsqueeze(0))
            k = float(found[0])
            smooth = smooth if k > LIMIT else lifted[0]
        smooth = smooth - smooth.logsumexp(0)
        logs.append(smooth)
        ks.append(k)
        shares.append(float(1.0 / (len(own) * (2.0 * smooth).exp().sum())))
    together = torch.cat(logs) - math.log(len(draws.parts))
    return Importance(together, tuple(ks), tuple(shares))


def pareto_smoothed(
    log_weights: Float[Tensor, "rows draws"],
) -> tuple[Float[Tensor, "rows draws"], Float[Tensor, " rows"]]:
    """Normalised logarithms of Pareto-smoothed weights, row by row, and each row's Pareto k."""
    values = log_weights.detach().cpu().double().numpy()
    # ArviZ takes differences with the largest entry; what is minus infinity has no weight anyway.
    values = np.maximum(values, values.max(1, keepdims=True) - 1e4)
    arviz, new = arviz_module()
    with np.errstate(all="ignore"):  # very heavy tails overflow, and have a large k
        if new:  # of log likelihoods
            stats = importlib.import_module("arviz_stats.base").array_stats
            smooth, k = stats.psislw(-values, axis=-1)
        else:
            smooth, k = arviz.psislw(values)
    return torch.as_tensor(np.asarray(smooth)).to(log_weights), torch.as_tensor(np.asarray(k))


def arviz_module() -> tuple[Any, bool]:
    """ArviZ, and whether it is version 1 or later."""
    with warnings.catch_warnings():  # a notice about its releases, once a day
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz, int(arviz.__version__.split(".")[0]) >= 1


def weighted_draws(posterior: Posterior, num_samples: int, seed: int) -> WeightedDraws:
    """See :class:`WeightedDraws`.

    Raises:
        ValueError: fewer than 100 draws; the posterior has no trajectories, or others than it was
            learned from.
    """
    if not isinstance(num_samples, int) or num_samples < FEWEST:
        raise ValueError(
            f"num_samples: expected a whole number of at least {FEWEST}, got {num_samples!r}"
        )
    kind = type(posterior).__name__
    if not isinstance(getattr(posterior, "data", None), Trajectories):
        raise ValueError(f"posterior: expected one learned from trajectories, got a {kind}")
    if posterior.conditioned or posterior.counterfactual:
        done = "condition()" if posterior.conditioned else "without_dissipation()"
        raise ValueError(
            f"posterior: expected the trajectories that it was learned from; after {done} their "
            "likelihood does not say how good it is"
        )
    return drawn(posterior, num_samples, seed)


@torch.no_grad()
def drawn(posterior: Posterior, num_samples: int, seed: int) -> WeightedDraws:
    """Draws with their densities; of conditioned posteriors the ratios are zero.

    Of a bank of draws these are rows evenly spaced, each at most once, in order.
    """
    inflation = inflation_of(posterior)
    generator = torch.Generator().manual_seed(seed + 1)
    parts, likelihoods, ratios, entries = [], [], [], []
    plain = posterior._draw(num_samples, torch.Generator().manual_seed(seed))
    pairs = zip(posterior.components, plain.parts, strict=False)
    for component, part in pairs:
        density = joint_density(posterior, component)
        seen = density.nodes.mask
        share = 1.0 / inflation.expand(seen.shape)[seen]
        unit = posterior.scaling.scale.expand(seen.shape)[seen].log()
        draws, found = part_of(part), None
        ratio = torch.zeros_like(draws.theta[:, 0])
        if isinstance(component, GaussianComponent) and not posterior.conditioned:
            draws, found, ratio = _settled(component, density, part.noise_std, generator)
        elif isinstance(component, SampledComponent):
            draws = component.rows(component.spread_out(len(ratio)), generator)
            ratio = ratio[: len(draws.theta)]
        likelihood = density.pointwise(draws.theta, draws.noise_std, states_of(draws)) / share
        own = Entries.given_states(likelihood, share)
        if found is not None and component.noise_dof is None:
            own = Entries.integrated(found, density, draws.noise_std, share)
        alive = likelihood.isfinite().all(1) & ratio.isfinite()
        parts.append(draws)
        likelihoods.append(likelihood - unit)
        ratios.append(ratio.masked_fill(~alive, -math.inf))
        entries.append(own.per_unit(unit))
    joined = Entries(*(torch.cat(column) for column in zip(*entries, strict=True)))
    return WeightedDraws(tuple(parts), torch.cat(likelihoods), torch.cat(ratios), joined, share)


def _settled(
    component: GaussianComponent,
    density: JointDensity,
    noise_std: Float[Tensor, "draws dim"],
    generator: torch.Generator,
) -> tuple[JointDraws, Settled, Tensor]:
    """Draws of parameters and states given those of the noise, and the log ratios of all."""
    theta, log_q = given_noise(component, noise_std, generator, density.nodes.mask.any(0))
    states, delta = component.window_states, theta - component.theta
    white = normal((len(delta), *states.mean.shape), delta, generator)
    begin = states.sample(delta, torch.zeros_like(white))
    found = settle(density, theta, noise_std, begin, white)
    ratio = found.log_marginal - log_q - log_noise(component, noise_std)
    return JointDraws(theta, noise_std, found.start), found, ratio
