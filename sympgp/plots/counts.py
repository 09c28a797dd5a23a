"""Coverage at many levels at once, and how far it may be from that of endless data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.plots import style
from sympgp.plots.choice import check_names
from sympgp.rollouts import Rollouts
from sympgp.trajectories import ArrayLike, as_tensor

FEWEST = 5
"""Independent parts below which resampling them says nothing about the whole."""
RESAMPLES = 1000
TOLERANCE = 0.9

Scored = tuple[Rollouts, ArrayLike]
"""Rollouts and the truth at their times."""


def count_inside(
    pairs: Sequence[Scored], levels: np.ndarray, kind: str, include_start: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How many entries of the truth are within the band of each level.

    An entry is within all bands whose level is at least ``|2 F - 1|``, where F is the predictive
    distribution function at the truth. Parts are the pairs, or the trajectories of a single one.

    Returns:
        Counts inside (parts, levels, D), and of all known entries (parts, D).

    Raises:
        ValueError: shapes or coordinates that do not fit together; nothing to count; an unknown
            kind; "predictive" where the noise is not known.
    """
    first = 0 if include_start else 1
    inside, counts = [], []
    for rollouts, truth in pairs:
        check_names("rollouts", rollouts.names, pairs[0][0].names)
        known = _known(truth, rollouts)[:, first:]
        needed = torch.stack(
            [
                _level_needed(rollouts, i, known[i], kind, first)
                for i in range(rollouts.num_trajectories)
            ]
        )
        within = needed.unsqueeze(1) <= torch.from_numpy(levels).to(needed).view(-1, 1, 1)
        inside.append((within & known.isfinite().unsqueeze(1)).sum(2))
        counts.append(known.isfinite().sum(1))
    if len(pairs) > 1:
        inside, counts = (
            [part.sum(0, keepdim=True) for part in parts] for parts in (inside, counts)
        )
    total = style.numbers(torch.cat(counts))
    if not total.any():
        raise ValueError(
            "truth: expected a known entry"
            + ("" if include_start else " after the first time (include_start=True counts it too)")
            + ", got none"
        )
    return style.numbers(torch.cat(inside)), total


def tolerance_band(
    inside: np.ndarray, counts: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray] | None:
    """Bootstrap band of the pooled coverage, from counts (parts, levels) and (parts,).

    Parts are drawn with replacement, as many as there are; the band holds 90% of the coverages
    at each level. None for fewer than five parts.
    """
    inside, counts = inside[counts > 0], counts[counts > 0]
    number = len(counts)
    if number < FEWEST:
        return None
    generator = np.random.default_rng(seed)
    times = generator.multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    curves = (times @ inside) / (times @ counts)[:, None]
    lower, upper = np.quantile(curves, [(1 - TOLERANCE) / 2, (1 + TOLERANCE) / 2], axis=0)
    return lower, upper


def _known(truth: ArrayLike, rollouts: Rollouts) -> Float[Tensor, "trajectories time dim"]:
    known = as_tensor(truth, "truth", rollouts.samples.dtype, rollouts.samples.device)
    known = known.unsqueeze(0) if known.ndim == 2 else known
    expected = rollouts.samples.shape[1:]
    if known.shape != expected:
        raise ValueError(
            f"truth: expected shape {tuple(expected)} as of the rollouts, got {tuple(known.shape)}"
        )
    return known


def _level_needed(
    rollouts: Rollouts, trajectory: int, known: Float[Tensor, "time dim"], kind: str, first: int
) -> Float[Tensor, "time dim"]:
    """Level of the narrowest central band that holds the truth; NaN where that is unknown."""
    if kind not in ("latent", "predictive"):
        raise ValueError(f"kind: expected 'latent' or 'predictive', got {kind!r}")
    kept = ~rollouts.diverged[:, trajectory]
    draws = rollouts.samples[kept, trajectory, first:]
    if not len(draws):
        return torch.full_like(known, torch.inf)
    if kind == "latent":
        return (2 * _rank(draws, known) - 1).abs()
    if rollouts.noise_std is None:
        raise ValueError("kind: a predictive band needs noise_std, which is not known here")
    smallest = torch.finfo(draws.dtype).tiny ** 0.5
    noise = rollouts.noise_std[kept].unsqueeze(1).clamp(min=smallest)
    return (2 * torch.special.ndtr((known - draws) / noise).mean(0) - 1).abs()


def _rank(
    draws: Float[Tensor, "draws time dim"], known: Float[Tensor, "time dim"]
) -> Float[Tensor, "time dim"]:
    """Weibull's position of the truth among the draws, between two of them in proportion."""
    count = len(draws)
    less, more = draws < known, draws > known
    num_less, num_more = less.sum(0), more.sum(0)
    below = draws.masked_fill(~less, -torch.inf).amax(0)
    above = draws.masked_fill(~more, torch.inf).amin(0)
    between = num_less + (known - below) / (above - below)
    between = between.where(num_less > 0, 0.0).where(num_more > 0, count + 1.0)
    equal = count - num_less - num_more
    tied = num_less + 0.5 * (equal + 1)
    rank = torch.where(equal > 0, tied, between) / (count + 1)
    return rank.masked_fill(known.isnan(), torch.nan)
