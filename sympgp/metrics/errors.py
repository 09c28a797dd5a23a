"""Errors of point predictions."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.metrics.draws import Draws, masked_mean, truth_like
from sympgp.trajectories import ArrayLike, as_tensor


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
    means = masked_mean((states - known) ** 2, observed, dims)
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
    return masked_mean(errors, complete, (1,) if per_trajectory else (0, 1))


def _pair(prediction: Draws | ArrayLike, truth: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return predicted and true states (N, T, 2n)."""
    if isinstance(prediction, Tensor | np.ndarray | list | tuple):
        states = as_tensor(prediction, "prediction")
        states = states[None] if states.ndim == 2 else states
        if states.ndim != 3:
            raise ValueError(f"prediction: expected shape (N, T, 2n), got {tuple(states.shape)}")
    else:
        states = prediction.mean
    return states, truth_like(truth, states)
