"""Smoothing each observed channel in time by a Gaussian process, to start the inference from.

The kernel is Matern-5/2 in index time (time over the median sampling interval); lengthscale,
variance and noise of a channel are shared by all trajectories and maximise the marginal likelihood.
Long trajectories are cut into overlapping pieces, so that the cost stays linear in their length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.distributed import ALONE, Ranks
from sympgp.noise import ScaledNoise
from sympgp.shooting.layout import Nodes

CORE, OVERLAP, FITTED_PIECES = 96, 24, 48
CHUNK_ELEMENTS = 2**20
"""Correlations that are held at a time (8 MB in float64) where each operation has its price."""
CACHED_ELEMENTS = 2**17
"""The same on a CPU (1 MB): few enough to stay in its cache."""
REWEIGHTINGS = 6
"""Rounds of weighing residuals: outliers lose their hold on the noise level step by step."""
DROWNED = 0.7
"""A channel whose noise seems larger than this share of its deviation is not smoothed so far."""


@dataclass(frozen=True)
class SmoothedPath:
    """States between the nodes, and the noise they were smoothed by.

    Attributes:
        stages: (N + 1, Q, D) at fractions 0, 1/2, 1, ... of each interval's equal parts.
        noise_std: (D,).
        rates: (N + 1, Q, D) dz/ds at the same points, where they were asked for.
    """

    stages: Float[Tensor, "nodes stages dim"]
    noise_std: Float[Tensor, " dim"]
    rates: Float[Tensor, "nodes stages dim"] | None = None


def _matern(distance: Tensor) -> Tensor:
    """Matern-5/2 correlation."""
    scaled = math.sqrt(5.0) * distance
    return torch.addcmul(1.0 + scaled, scaled, scaled, value=1.0 / 3.0) * torch.exp(-scaled)


def _matern_slope(difference: Tensor) -> Tensor:
    """Derivative of the Matern-5/2 correlation with respect to a signed difference."""
    scaled = math.sqrt(5.0) * difference.abs()
    return -5.0 / 3.0 * difference * (1.0 + scaled) * torch.exp(-scaled)


@dataclass(frozen=True)
class _Pieces:
    """Overlapping pieces of one channel: times, values, mask and weights (C, L), padded."""

    times: Tensor
    values: Tensor
    mask: Tensor
    weights: Tensor

    def correlation(self, lengthscale: Tensor) -> Tensor:
        distance = (self.times[:, :, None] - self.times[:, None, :]).abs() / lengthscale
        both = (self.mask[:, :, None] & self.mask[:, None, :]).to(distance.dtype)
        return _matern(distance) * both

    def factor(self, log: Tensor) -> Tensor:
        """Cholesky factor of the noisy covariance; missing entries become unit noise."""
        lengthscale, deviation, noise = log.exp().unbind()
        variance = noise**2 / self.weights.clamp(min=1e-6)
        diagonal = torch.where(self.mask, variance + 1e-10 * deviation**2, 1.0)
        return cholesky(
            deviation**2 * self.correlation(lengthscale) + torch.diag_embed(diagonal),
            "the covariance of a channel that is smoothed",
        )

    def negative_log_likelihood(self, log: Tensor) -> Tensor:
        factor = self.factor(log)
        white = torch.linalg.solve_triangular(factor, self.values.unsqueeze(-1), upper=False)
        logdet = factor.diagonal(dim1=-2, dim2=-1).log()
        return 0.5 * (white**2).sum() + logdet.sum()

    def thinned(self, count: int) -> _Pieces:
        index = torch.linspace(0, len(self.times) - 1, min(count, len(self.times)))
        return self.taken(index.round().long().to(self.times.device))

    def taken(self, rows: Tensor | slice) -> _Pieces:
        """Some of the pieces."""
        parts = (self.times, self.values, self.mask, self.weights)
        return _Pieces(*(part[rows] for part in parts))

    def predict(
        self, log: Tensor, queries: Tensor, rates: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Posterior mean at queries (C, Q), and its derivative where it is wanted.

        Of so many pieces at a time that little memory is needed.
        """
        widest = self.times.shape[1] * max(queries.shape[1], self.times.shape[1], 1)
        most = CACHED_ELEMENTS if queries.device.type == "cpu" else CHUNK_ELEMENTS
        size = max(1, most // widest)
        # Results have their place from the start: kept between temporaries they would part memory.
        mean, lengthscale = torch.empty_like(queries), log[0].exp()
        slope = torch.empty_like(queries) if rates else None
        for top in range(0, len(queries), size):
            part = slice(top, top + size)
            own = self.taken(part)
            weights = own._weights(log)
            difference = (queries[part, :, None] - own.times[:, None, :]) / lengthscale
            mean[part] = (_matern(difference.abs()) @ weights).squeeze(-1)
            if slope is not None:
                slope[part] = (_matern_slope(difference) @ weights).squeeze(-1) / lengthscale
        return mean, slope

    def _weights(self, log: Tensor) -> Tensor:
        """By which correlations with the observations are summed, (C, L, 1)."""
        weights = torch.cholesky_solve(self.values.unsqueeze(-1), self.factor(log))
        return torch.exp(2.0 * log[1]) * weights * self.mask.unsqueeze(-1)


def _fit_channel(pieces: _Pieces) -> Tensor:
    """Maximise the marginal likelihood from two starts; returns log (lengthscale, std, noise)."""
    from scipy.optimize import minimize

    sample = pieces.thinned(FITTED_PIECES)
    deviation = float(sample.values[sample.mask].std())
    if not deviation > 0:
        deviation = 1.0

    def objective(log: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(log, dtype=sample.values.dtype, device=sample.values.device)
        leaf.requires_grad_(True)
        # A broad pull towards the start keeps few or noise-free data from running away.
        prior = 0.5 * ((leaf - leaf.new_tensor(centre)) ** 2 / 9.0).sum()
        value = sample.negative_log_likelihood(leaf) + prior
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient.cpu().numpy().astype(float)

    results = []
    for lengthscale, noise in ((3.0, 0.1), (8.0, 0.4)):
        centre = [math.log(lengthscale), math.log(deviation), math.log(noise * deviation)]
        bounds = [(math.log(0.7), math.log(500.0))]
        bounds += [(math.log(1e-2 * deviation), math.log(1e3 * deviation))]
        bounds += [(math.log(1e-5 * deviation), math.log(2.0 * deviation))]
        results.append(
            minimize(
                objective,
                centre,
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": 40},
            )
        )
    best = min(results, key=lambda found: found.fun)
    log = best.x
    if log[2] > math.log(DROWNED * deviation):
        # Too few points an oscillation look like noise to a smoother: follow them more closely.
        log = np.log([1.0, deviation, 0.3 * deviation])
    return torch.tensor(log, dtype=pieces.values.dtype, device=pieces.values.device)


def smooth(nodes: Nodes, parts: int, rates: bool = False, ranks: Ranks = ALONE) -> SmoothedPath:
    """Smooth every channel; states at ``2 parts + 1`` evenly spaced points of each interval.

    Channels without any observation are zero, with noise one.

    Args:
        nodes: the data.
        parts: of each interval.
        rates: whether the derivatives are wanted too.
        ranks: each fits some of the channels and smooths a share of the pieces; all of them have
            the whole path.

    Raises:
        RankError: a channel that cannot be smoothed, on all of several ranks.
    """
    unit = _interval(nodes)
    index_time, index_dt = nodes.times / unit, nodes.dt / unit
    fractions = torch.linspace(0, 1, 2 * parts + 1, dtype=nodes.dt.dtype, device=nodes.dt.device)
    member, core = _cut(nodes)
    own = ranks.part(len(core))
    wanted = index_time[core[own], None] + fractions * index_dt[core[own], None]
    stages = nodes.values.new_zeros(len(nodes.times), len(fractions), nodes.values.shape[1])
    slopes = torch.zeros_like(stages) if rates else None
    noise = stages.new_ones(stages.shape[-1])

    def pieces(channel: int) -> _Pieces:
        mask, weights = nodes.mask[member, channel], nodes.weights[member, channel]
        return _Pieces(index_time[member], nodes.values[member, channel], mask, weights)

    channels = [c for c, seen in enumerate(nodes.mask.any(0).tolist()) if seen]
    mine = channels[ranks.rank :: ranks.count]
    fitted = ranks.agree(lambda: {c: _fit_channel(pieces(c)) for c in mine})
    for channel in channels:
        log = ranks.sum(fitted.get(channel, noise.new_zeros(3)))
        part = pieces(channel).taken(own)
        mean, slope = ranks.agree(partial(part.predict, log, wanted.flatten(1), rates))
        stages[core, :, channel] = ranks.gather(mean).reshape(*core.shape, -1)
        if slopes is not None and slope is not None:
            slopes[core, :, channel] = ranks.gather(slope / unit).reshape(*core.shape, -1)
        noise[channel] = log[2].exp()
    return SmoothedPath(stages, noise, slopes)


def smooth_robustly(
    nodes: Nodes, noise: ScaledNoise, parts: int, rates: bool = False, ranks: Ranks = ALONE
) -> tuple[Nodes, ScaledNoise, SmoothedPath]:
    """Smooth, and under Student's t weigh the residuals and smooth again until both agree."""
    path = smooth(nodes, parts, rates, ranks)
    if noise.dof is None:
        return nodes, noise, path
    for _ in range(REWEIGHTINGS):
        residual = path.stages[:, 0] - nodes.values
        # With the degrees of freedom at hand: a smoother's residuals say little about tails.
        _, std = replace(noise, free=False).refined(residual, nodes.mask)
        nodes = nodes.reweighted(noise.weights(residual, std))
        path = smooth(nodes, parts, rates, ranks)
    return nodes, noise, path


def _interval(nodes: Nodes) -> Tensor:
    """Median interval between observed nodes; others only split gaps or carry inputs."""
    seen = nodes.mask.any(1)
    same = nodes.trajectory[seen].diff() == 0
    return nodes.times[seen].diff()[same].median()


def _cut(nodes: Nodes) -> tuple[Tensor, Tensor]:
    """Observed nodes of each overlapping piece (C, L) and all of its core (C, K).

    Both are padded by the last node.
    """
    seen = nodes.mask.any(1)
    observed = torch.arange(len(seen), device=seen.device)[seen]
    counts = nodes.per_trajectory(seen)
    pieces = (counts + CORE - 1) // CORE
    owner = torch.arange(len(counts), device=seen.device).repeat_interleave(pieces)
    number = torch.arange(len(owner), device=seen.device) - (pieces.cumsum(0) - pieces)[owner]
    count, parts, before = counts[owner], pieces[owner], (counts.cumsum(0) - counts)[owner]
    edge, after = count * number // parts, count * (number + 1) // parts
    low, high = (edge - OVERLAP).clamp(min=0), torch.minimum(after + OVERLAP, count)
    first = torch.tensor(nodes.first, device=seen.device)
    # Cores are cut at observed nodes; the first begins and the last ends with the trajectory.
    inner = torch.cat([observed, first[-1:]])
    begin = torch.where(number == 0, first[owner], inner[before + edge])
    end = torch.where(number + 1 == parts, first[owner + 1], inner[before + after])
    padding = nodes.first[-1]
    members = _ranges(before + low, before + high, len(observed))
    return torch.cat([observed, first[-1:]])[members], _ranges(begin, end, padding)


def _ranges(begin: Tensor, end: Tensor, padding: int) -> Tensor:
    """Rows ``begin, begin + 1, ..., end - 1``, padded to the same length."""
    size = end - begin
    slots = torch.arange(int(size.max()), device=begin.device)
    return torch.where(slots < size[:, None], begin[:, None] + slots, padding)
