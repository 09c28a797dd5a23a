"""Means, standard deviations and quantiles over the draws that did not diverge."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.rollouts.student_t import signed_probability, standard_quantile

CHUNK_ELEMENTS = 2_000_000
"""Numbers worked on at a time (16 MB in float64, and a few times that for temporaries)."""

BISECTIONS = 24
"""Halvings of the first bracket of a predictive quantile, down to 6e-8 of its width."""


def kept_mean(
    samples: Float[Tensor, "draws trajectories time dim"],
    diverged: Bool[Tensor, "draws trajectories"],
) -> Float[Tensor, "trajectories time dim"]:
    """Mean over the draws left; NaN where there is none."""
    left_out = diverged[..., None, None]
    count = left_out.logical_not().sum(0)
    return samples.masked_fill(left_out, 0.0).sum(0) / count


def kept_std(
    samples: Float[Tensor, "draws trajectories time dim"],
    diverged: Bool[Tensor, "draws trajectories"],
) -> Float[Tensor, "trajectories time dim"]:
    """Standard deviation (divisor count - 1) over the draws left; NaN for fewer than two."""
    left_out = diverged[..., None, None]
    count = left_out.logical_not().sum(0)
    deviation = (samples - kept_mean(samples, diverged)).masked_fill(left_out, 0.0)
    return (deviation.square().sum(0) / (count - 1).clamp(min=0)).sqrt()


def kept_quantiles(
    samples: Float[Tensor, "draws trajectories time dim"],
    diverged: Bool[Tensor, "draws trajectories"],
    probabilities: tuple[float, ...],
    noise_std: Float[Tensor, "draws dim"] | None = None,
    noise_dof: float | None = None,
) -> list[Float[Tensor, "trajectories time dim"]]:
    """Quantiles over the draws left, of the states or of noisy observations of them.

    Noise is Student's t with ``noise_dof`` degrees of freedom, or Gaussian where this is None.

    Ranks of states are ``(S + 1) p`` (Weibull's plotting position), with which the band between two
    quantiles holds one more exchangeable draw with exactly the probability asked for; the
    empirical quantiles of S draws hold it less often.

    Works through the times in chunks, so that temporary memory does not grow with them.
    """
    num_draws, _, num_times, dim = samples.shape
    points = samples.flatten(1, 2)
    left_out = diverged.repeat_interleave(num_times, 1)
    size = max(1, CHUNK_ELEMENTS // (num_draws * dim))
    chunks = []
    for values, out in zip(points.split(size, 1), left_out.split(size, 1), strict=True):
        if noise_std is None:
            chunks.append(_quantiles(values, out, probabilities))
        else:
            mixture = (values, out, noise_std, noise_dof)
            chunks.append([_mixture_quantile(*mixture, p) for p in probabilities])
    return [torch.cat(parts).view(samples.shape[1:]) for parts in zip(*chunks, strict=True)]


def _quantiles(
    values: Float[Tensor, "draws points dim"],
    left_out: Bool[Tensor, "draws points"],
    probabilities: tuple[float, ...],
) -> list[Float[Tensor, "points dim"]]:
    """Order statistics, interpolated linearly."""
    # NaN sorts behind every number: the draws left come first
    ordered = values.masked_fill(left_out.unsqueeze(-1), math.nan).sort(0).values
    last = (left_out.logical_not().sum(0) - 1).clamp(min=0).to(values.dtype)
    zero = torch.zeros_like(last)

    def order_statistic(rank: Tensor) -> Tensor:
        index = rank.long().view(1, -1, 1).expand(1, *ordered.shape[1:])
        return ordered.gather(0, index).squeeze(0)

    quantiles = []
    for probability in probabilities:
        rank = (probability * (last + 2.0) - 1.0).clamp(zero, last)
        below, above = order_statistic(rank.floor()), order_statistic(rank.ceil())
        quantiles.append(torch.lerp(below, above, (rank - rank.floor()).unsqueeze(-1)))
    return quantiles


def _mixture_quantile(
    values: Float[Tensor, "draws points dim"],
    left_out: Bool[Tensor, "draws points"],
    noise_std: Float[Tensor, "draws dim"],
    noise_dof: float | None,
    probability: float,
) -> Float[Tensor, "points dim"]:
    """Quantile of the mixture of ``values + noise_std e`` over the draws left, by bisection.

    It lies between the smallest and the largest quantile of the single draws.
    """
    out = left_out.unsqueeze(-1)
    sigma = noise_std.unsqueeze(1).clamp(min=torch.finfo(values.dtype).tiny ** 0.5)
    # erf has the scale sqrt(2)
    unit = math.sqrt(0.5) if noise_dof is None else 1.0
    own = torch.add(values, sigma, alpha=_noise_quantile(probability, noise_dof))
    low, high = own.masked_fill(out, math.inf).amin(0), own.masked_fill(out, -math.inf).amax(0)
    # 2 F(0) - 1 = 0: draws left out add nothing to the sum
    inverse = (unit / sigma).expand_as(values).masked_fill(out, 0.0)
    centers = values.masked_fill(out, 0.0)
    target = (2 * probability - 1) * out.logical_not().sum(0)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        ratio = torch.sub(middle, centers).mul_(inverse)
        signed = ratio.erf_() if noise_dof is None else signed_probability(ratio, noise_dof)
        below = signed.sum(0) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def _noise_quantile(probability: float, dof: float | None) -> float:
    """Of noise of scale one."""
    if dof is not None:
        return standard_quantile(probability, dof)
    signed = torch.tensor(2 * probability - 1, dtype=torch.float64)
    return math.sqrt(2.0) * torch.erfinv(signed).item()
