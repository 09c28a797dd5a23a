"""Scores of predicted distributions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.metrics.draws import Draws, masked_mean, truth_like
from sympgp.trajectories import ArrayLike


def coverage(
    rollouts: Draws,
    truth: ArrayLike,
    level: float = 0.9,
    kind: str = "latent",
    *,
    per_channel: bool = False,
    include_start: bool = False,
) -> Float[Tensor, "..."]:
    """Share of the truth's entries within the central band of the given level.

    A truth without noise belongs to ``kind="latent"``, observations to ``kind="predictive"``. The
    entries of a trajectory all of whose draws diverged count as not covered.

    Args:
        rollouts: Draws of N trajectories.
        truth: (N, T, 2n), NaN where unknown; (T, 2n) is taken for one trajectory.
        level: Probability that the band is meant to hold.
        kind: ``"latent"`` or ``"predictive"``.
        per_channel: Return the share of each channel, (2n,), in place of that of all.
        include_start: Count the first time too. A rollout is given its state there exactly, which
            makes a band of no width; a forecast is not.

    Raises:
        ValueError: If shapes differ, ``kind`` is another one, or nothing is left to count.
    """
    _check_kind(kind)
    lower, upper = rollouts.band(level=level, kind=kind)
    known = _scored(truth_like(truth, lower), include_start)
    first = lower.shape[1] - known.shape[1]
    inside = (lower[:, first:] <= known) & (known <= upper[:, first:])
    return _reduce(inside.to(lower.dtype), known, per_channel)


def crps(
    rollouts: Draws,
    truth: ArrayLike,
    kind: str = "latent",
    *,
    per_channel: bool = False,
    include_start: bool = False,
    seed: int = 0,
) -> Float[Tensor, "..."]:
    """Continuous ranked probability score of the draws, averaged over entries; less is better.

    For m draws x_s of an entry whose true value is y, the fair estimator

        mean_s |x_s - y| - 1 / (2 m (m - 1)) sum_(s,s') |x_s - x_s'|,

    whose expectation is the score of the distribution behind the draws, however few there are. It
    is in the units of the entry, so that a mean over channels of different units says little. The
    double sum comes from the sorted draws in O(m log m).

    Source: Ferro, *Fair scores for ensemble forecasts*, Q. J. R. Meteorol. Soc. 140 (2014).

    Args:
        rollouts: Draws of N trajectories.
        truth: (N, T, 2n), NaN where unknown; (T, 2n) is taken for one trajectory.
        kind: ``"predictive"`` adds to each draw observation noise of its own level, of Student's t
            where the rollouts say so.
        per_channel: Return the score of each channel, (2n,).
        include_start: Count the first time too, see ``coverage``.
        seed: Seed of the observation noise.

    Returns:
        The score; NaN where fewer than two draws of a trajectory did not diverge.

    Raises:
        ValueError: If shapes differ, ``kind`` is another one, there is one draw only, or nothing
            is left to count.
    """
    draws, known = _draws(rollouts, truth, include_start)
    if _check_kind(kind) == "predictive":
        draws = draws + _noise_std(rollouts) * _standard_noise(draws, _noise_dof(rollouts), seed)
    # NaN, of diverged draws, is sorted last and gets no weight; ranks count from 1.
    errors = (draws - known).sort(dim=0).values
    count = (~errors.isnan()).sum(0)
    rank = torch.arange(1, len(errors) + 1, device=errors.device).reshape(-1, 1, 1, 1)
    weight = (2 * rank - count - 1).masked_fill(rank > count, 0)
    spread = (weight * errors.nan_to_num()).sum(0) / (count * (count - 1))
    return _reduce(errors.abs().nanmean(0) - spread, known, per_channel)


def nlpd(
    rollouts: Draws,
    truth: ArrayLike,
    kind: str = "latent",
    *,
    per_channel: bool = False,
    include_start: bool = False,
) -> Float[Tensor, "..."]:
    """Negative log predictive density of the truth, averaged over entries; less is better.

    Each entry is scored under its own marginal distribution:

    - ``kind="latent"``: the Gaussian with the mean and the (unbiased) variance of the draws, since
      draws alone have no density;
    - ``kind="predictive"``: the model's own mixture over draws,
      ``p(y) = mean_s N(y; x_s, noise_std_s^2)``, of Student's t about ``x_s`` with the scale
      ``noise_std_s`` where the rollouts have ``noise_dof``.

    Args:
        rollouts: Draws of N trajectories.
        truth: (N, T, 2n), NaN where unknown; (T, 2n) is taken for one trajectory.
        kind: ``"latent"`` for a truth without noise, ``"predictive"`` for observations.
        per_channel: Return the mean of each channel, (2n,).
        include_start: Count the first time too. Where the state is given there exactly, its
            density is infinite.

    Returns:
        The score in nats; NaN where too few draws of a trajectory did not diverge.

    Raises:
        ValueError: If shapes differ, ``kind`` is another one, there is one draw only, or nothing
            is left to count.
    """
    draws, known = _draws(rollouts, truth, include_start)
    valid = ~draws.isnan()
    if _check_kind(kind) == "predictive":
        logs = _log_density(known - draws, _noise_std(rollouts), _noise_dof(rollouts))
        logs = logs.masked_fill(~valid, -math.inf)
        return _reduce(valid.sum(0).log() - logs.logsumexp(0), known, per_channel)
    mean = draws.nanmean(0)
    variance = ((draws - mean) ** 2).nansum(0) / (valid.sum(0) - 1)
    return _reduce(-_log_density(known - mean, variance.sqrt()), known, per_channel)


def _log_density(residual: Tensor, scale: Tensor, dof: float | None = None) -> Tensor:
    """Of Student's t, or of a Gaussian where there are no degrees of freedom."""
    squares = (residual / scale) ** 2
    if dof is None:
        return -0.5 * math.log(2 * math.pi) - scale.log() - 0.5 * squares
    constant = math.lgamma(0.5 * dof + 0.5) - math.lgamma(0.5 * dof)
    constant -= 0.5 * math.log(math.pi * dof)
    return constant - scale.log() - 0.5 * (dof + 1) * torch.log1p(squares / dof)


def _standard_noise(like: Tensor, dof: float | None, seed: int) -> Tensor:
    """Noise of scale one from a CPU generator, so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype)
    if dof is not None:
        # What torch.distributions.StudentT draws with; the distribution itself takes no generator.
        half = torch.full(like.shape, 0.5 * dof, dtype=torch.float64)
        mean_square = torch._standard_gamma(half, generator=generator) / (0.5 * dof)
        noise = noise / mean_square.sqrt().to(noise)
    return noise.to(like.device)


def _check_kind(kind: str) -> str:
    if kind not in ("latent", "predictive"):
        raise ValueError(f"kind: expected 'latent' or 'predictive', got {kind!r}")
    return kind


def _noise_std(rollouts: Draws) -> Float[Tensor, "draws 1 1 dim"]:
    if rollouts.noise_std is None:
        raise ValueError(
            "kind: expected 'latent' for rollouts without observation noise, got 'predictive'"
        )
    return rollouts.noise_std[:, None, None]


def _noise_dof(rollouts: Draws) -> float | None:
    # Draws of others, whose noise is Gaussian, may not say so.
    return getattr(rollouts, "noise_dof", None)


def _scored(known: Float[Tensor, "n time dim"], include_start: bool) -> Tensor:
    """Return the truth at the times that count."""
    later = known if include_start else known[:, 1:]
    if later.isnan().all():
        raise ValueError(
            "truth: expected a known entry after the first time, got none "
            "(include_start=True counts the first time too)"
        )
    return later


def _draws(rollouts: Draws, truth: ArrayLike, include_start: bool) -> tuple[Tensor, Tensor]:
    """Return the draws, NaN where they diverged, and the truth at the times that count."""
    samples = rollouts.samples
    if len(samples) < 2:
        raise ValueError("rollouts: expected at least two draws, got one")
    known = _scored(truth_like(truth, samples[0]), include_start)
    samples = samples[:, :, samples.shape[2] - known.shape[1] :]
    return samples.masked_fill(rollouts.diverged[:, :, None, None], torch.nan), known


def _reduce(values: Tensor, known: Tensor, per_channel: bool) -> Tensor:
    return masked_mean(values, ~known.isnan(), (0, 1) if per_channel else (0, 1, 2))
