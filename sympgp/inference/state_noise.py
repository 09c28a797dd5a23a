"""Noise of the states of pairs (x, dx/dt): errors in variables.

The states seen are ``x = z + u`` with ``u ~ N(0, V)`` of known ``V = diag(state_std^2)``, the rates
``y = f(z) + e`` with ``e ~ N(0, S)``. About places ``z_0`` where the states may have been, with
``F = df/dz`` there,

    y - F (x - z_0) + b = f(z_0) + (e - F u),   e - F u ~ N(0, C),   C = S + F V F',

so that a fit at ``z_0`` to these moved rates with noise of covariance C is the fit to all that was
seen with the true states profiled out. Places, F and C are those of the last field and stay as
they are in each round of a fit: a C that followed the parameters would reward flat fields. Places
are the most probable states,

    z_0 = x + V F' C^-1 (y - f(z_0) - F (x - z_0)),

whose errors, of covariance ``P = V - V F' C^-1 F V``, are independent of the residuals to first
order. What is left to second order is a mean of the residuals, ``-1/2 sum_ab P_ab d_a d_b f``;
``b`` takes it away, from symmetric differences over one deviation.

Sources: Fuller, *Measurement Error Models*, 1987, section 3.2; Britt and Luecke, *The estimation of
parameters in nonlinear, implicit models*, Technometrics 1973; Carroll et al., *Measurement Error in
Nonlinear Models*, 2006, for what is left over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.inference.pairs import Pairs
from sympgp.inference.rate_noise import rate_factor

FARTHEST = 4.0
"""Noise deviations that a place may be away from the state that was seen."""
CLOSE = 0.01
"""Root mean square move of the places, in noise deviations, that is none."""
ROUNDS = 12
"""Of places and weights in turns, at most."""

Rates = Callable[[Tensor], Tensor]
"""From scaled states (N, D) to scaled rates (N, D)."""


def located(
    seen: Pairs,
    last: Pairs,
    rates: Rates,
    slope: Rates,
    noise_std: Float[Tensor, " dim"],
    state_std: Float[Tensor, " dim"],
) -> Pairs:
    """The pairs as a fit with exact states may take them, see the module.

    Args:
        seen: the data.
        last: the same at the last places.
        rates: the present field.
        slope: its derivatives by the state, (N, D, D).
        noise_std: of the rates, S.
        state_std: of the states, V.
    """
    with torch.no_grad():
        z, variance = last.z, state_std**2
        observed = seen.observed.to(z)
        jacobian = slope(z) * observed.unsqueeze(-1)
        rest = (seen.rates - rates(z)) * observed
        rest = rest - _times(jacobian, seen.z - z)
        gain = _gain(jacobian, noise_std, variance, seen)
        moved = (_times(gain, rest) / state_std.clamp(min=torch.finfo(z.dtype).tiny)).clamp(
            -FARTHEST, FARTHEST
        )
        z = seen.z + torch.where(state_std > 0, moved * state_std, 0.0)
        jacobian = slope(z) * observed.unsqueeze(-1)
        known = (jacobian * variance) @ jacobian.mT
        left = torch.diag_embed(variance.expand_as(z))
        left = left - _gain(jacobian, noise_std, variance, seen) @ (jacobian * variance)
        own = seen.rates - _times(jacobian, seen.z - z) + _curvature(rates, z, left)
        return replace(seen, z=z, rates=own * observed, covariance=known)


def moved_by(ahead: Pairs, before: Pairs, state_std: Float[Tensor, " dim"]) -> float:
    """Root mean square distance of the places, in deviations of the noise that states have."""
    noisy = state_std > 0
    off = (ahead.z - before.z)[:, noisy] / state_std[noisy]
    return float(off.square().mean().sqrt())


def _times(
    matrices: Float[Tensor, "points dim dim"], vectors: Float[Tensor, "points dim"]
) -> Float[Tensor, "points dim"]:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def _gain(
    jacobian: Float[Tensor, "points dim dim"],
    noise_std: Float[Tensor, " dim"],
    variance: Float[Tensor, " dim"],
    seen: Pairs,
) -> Float[Tensor, "points dim dim"]:
    """``V F' C^-1``; rows of F are zero where a rate is missing."""
    known = (jacobian * variance) @ jacobian.mT
    factor = rate_factor(noise_std, known, seen.observed)
    found: Tensor = torch.cholesky_solve(jacobian * variance, factor)
    return found.mT


def _curvature(
    rates: Rates, z: Float[Tensor, "points dim"], covariance: Float[Tensor, "points dim dim"]
) -> Float[Tensor, "points dim"]:
    """``1/2 sum_ab P_ab d_a d_b f`` by differences along the columns of a root of P."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    root = vectors * eigenvalues.clamp(min=0.0).sqrt().unsqueeze(-2)
    total = -z.shape[1] * rates(z)
    for column in root.unbind(-1):
        total = total + 0.5 * (rates(z + column) + rates(z - column))
    return total
