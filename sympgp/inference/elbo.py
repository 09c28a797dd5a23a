"""The evidence lower bound as a plain function with named terms."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.inference.approximation import Approximation
from sympgp.posterior import JointDraws
from sympgp.shooting.density import JointDensity


def elbo(
    q: Approximation, density: JointDensity, num_draws: int, generator: torch.Generator
) -> dict[str, Float[Tensor, ""]]:
    """Monte Carlo estimate of ``E_q[log p(y, unknowns) - log q(unknowns)]``, term by term.

    One draw is one function, followed through every window. The terms are those of
    :meth:`JointDensity.terms` and "entropy"; their sum is the bound, in nats. Unbiased, and
    differentiable in the trained entries of ``q``: where q is exact all draws give the evidence
    itself, and where they are held in the density of q (:func:`bound_of_draws`) no gradient.

    Args:
        q: the approximation.
        density: joint density of its unknowns.
        num_draws: draws S.
        generator: of the draws.

    Source: Tanaka, Iwata and Ueda (2022), section 4, with draws of whole functions.
    """
    terms = bound_of_draws(q, density, q.sample(num_draws, generator))
    return {name: value.mean() for name, value in terms.items()}


def bound_of_draws(
    q: Approximation,
    density: JointDensity,
    draws: JointDraws,
    chosen: Int[Tensor, " chosen"] | None = None,
) -> dict[str, Float[Tensor, " draws"]]:
    """The terms of :func:`elbo` draw by draw.

    The gradient that flows through the draws alone, with ``q.detached()``, is unbiased for that
    of the bound, and vanishes draw by draw where q is exact.

    Args:
        q: the approximation whose density counts.
        density: joint density.
        draws: from the approximation.
        chosen: windows whose data stand for all.

    Source: Roeder, Wu and Duvenaud, *Sticking the landing*, NeurIPS 2017.
    """
    if draws.start is None:
        raise ValueError("draws: expected window states, got None")
    terms = density.terms(draws.theta, draws.noise_std, draws.start, chosen)
    terms["entropy"] = -q.log_prob(draws)
    return terms
