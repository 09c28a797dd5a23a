"""How good predicted trajectories are, and how honest their bands.

Every function compares with a truth of shape (N, T, 2n) at the prediction's times, leaves out
entries where the truth is NaN, and returns a tensor: one number, or one per trajectory or channel
where asked. Draws that diverged are left out of their trajectory.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.trajectories import ArrayLike, as_tensor


@runtime_checkable
class Draws(Protocol):
    """What the metrics use of ``Rollouts``."""

    @property
    def samples(self) -> Tensor:
        """Draws (S, N, T, 2n)."""

    @property
    def diverged(self) -> Tensor:
        """Which draws diverged, (S, N)."""

    @property
    def mean(self) -> Tensor:
        """Mean of the draws that did not diverge, (N, T, 2n)."""

    @property
    def noise_std(self) -> Tensor | None:
        """Observation noise of each draw, (S, 2n)."""

    def band(self, level: float = 0.9, kind: str = "latent") -> tuple[Tensor, Tensor]:
        """Lower and upper edge of the central band, (N, T, 2n) each."""


def trajectory_mse(
    prediction: Draws | ArrayLike, truth: ArrayLike, *, per_trajectory: bool = False
) -> Float[Tensor, "..."]:
    """Mean over trajectories and times of the squared error summed over coordinates.

        sum_d mean_(i,t) (prediction_itd - truth_itd)^2

    The mean of each coordinate d is over its observed entries; a coordinate that is nowhere
    observed adds nothing. The start is included.

    Args:
        prediction: Rollouts, of which the mean over draws is taken, or states (N, T, 2n).
        truth: (N, T, 2n), NaN where unknown; (T, 2n) is taken for one trajectory.
        per_trajectory: Return (N,), the mean over times of each trajectory, NaN for one without
            any observed entry.

    Raises:
        ValueError: If shapes differ or the truth is NaN everywhere.

    Example:
        >>> trajectory_mse([[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 2.0], [0.0, 0.0]]])
        tensor(2.5000, dtype=torch.float64)
    """
    states, known = _pair(prediction, truth)
    observed = ~known.isnan()
    dims = (1,) if per_trajectory else (0, 1)
    means = _mean((states - known) ** 2, observed, dims)
    total = means.masked_fill(~observed.any(dim=dims), 0.0).sum(-1)
    return total.masked_fill(~observed.any(dim=(*dims, -1)), torch.nan)


def energy_mse(
    prediction: Draws | ArrayLike,
    truth: ArrayLike,
    hamiltonian: Callable[[Tensor], Tensor],
    *,
    per_trajectory: bool = False,
) -> Float[Tensor, "..."]:
    """Mean squared difference of the true Hamiltonian along prediction and truth.

        mean_(i,t) (H(prediction_it) - H(truth_it))^2

    over the points where every coordinate of the truth is known, the start included.

    Args:
        prediction: Rollouts, of which the mean over draws is taken, or states (N, T, 2n).
        truth: (N, T, 2n), NaN where unknown; (T, 2n) is taken for one trajectory.
        hamiltonian: The true H, from states (..., 2n) to (...,).
        per_trajectory: Return (N,), the mean over times of each trajectory.

    Raises:
        ValueError: If shapes differ or no point of the truth is known.

    Example:
        >>> from sympgp.systems import HarmonicOscillator
        >>> energy_mse([[2.0, 0.0]], [[0.0, 2.0]], HarmonicOscillator().hamiltonian)
        tensor(0., dtype=torch.float64)
    """
    states, known = _pair(prediction, truth)
    complete = ~known.isnan().any(-1)
    if not complete.any():
        raise ValueError("truth: expected a point at which every coordinate is known, got none")
    errors = (hamiltonian(states) - hamiltonian(known)) ** 2
    return _mean(errors, complete, (1,) if per_trajectory else (0, 1))


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
    known = _scored(_truth(truth, lower), include_start)
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
        kind: ``"predictive"`` adds to each draw observation noise of its own level.
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
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(draws.shape, generator=generator, dtype=draws.dtype).to(draws.device)
        draws = draws + _noise_std(rollouts) * noise
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
      ``p(y) = mean_s N(y; x_s, noise_std_s^2)``.

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
        logs = _normal_log_density(known - draws, _noise_std(rollouts))
        logs = logs.masked_fill(~valid, -math.inf)
        return _reduce(valid.sum(0).log() - logs.logsumexp(0), known, per_channel)
    mean = draws.nanmean(0)
    variance = ((draws - mean) ** 2).nansum(0) / (valid.sum(0) - 1)
    return _reduce(-_normal_log_density(known - mean, variance.sqrt()), known, per_channel)


def _normal_log_density(residual: Tensor, std: Tensor) -> Tensor:
    return -0.5 * math.log(2 * math.pi) - std.log() - 0.5 * (residual / std) ** 2


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


def _pair(prediction: Draws | ArrayLike, truth: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return predicted and true states (N, T, 2n)."""
    if isinstance(prediction, Tensor | np.ndarray | list | tuple):
        states = as_tensor(prediction, "prediction")
        states = states[None] if states.ndim == 2 else states
        if states.ndim != 3:
            raise ValueError(f"prediction: expected shape (N, T, 2n), got {tuple(states.shape)}")
    else:
        states = prediction.mean
    return states, _truth(truth, states)


def _truth(truth: ArrayLike, like: Float[Tensor, "n time dim"]) -> Float[Tensor, "n time dim"]:
    known = as_tensor(truth, "truth", like.dtype, like.device)
    known = known[None] if known.ndim == 2 else known
    if known.shape != like.shape:
        raise ValueError(
            f"truth: expected shape {tuple(like.shape)} as of the prediction, "
            f"got {tuple(known.shape)}"
        )
    if known.isnan().all():
        raise ValueError("truth: expected a known entry, got only NaN")
    return known


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
    known = _scored(_truth(truth, samples[0]), include_start)
    samples = samples[:, :, samples.shape[2] - known.shape[1] :]
    return samples.masked_fill(rollouts.diverged[:, :, None, None], torch.nan), known


def _reduce(values: Tensor, known: Tensor, per_channel: bool) -> Tensor:
    return _mean(values, ~known.isnan(), (0, 1) if per_channel else (0, 1, 2))


def _mean(values: Tensor, keep: Bool[Tensor, "..."], dims: tuple[int, ...]) -> Tensor:
    """Mean of the values to keep; NaN where there are none."""
    return values.where(keep, torch.zeros_like(values)).sum(dims) / keep.sum(dims)
