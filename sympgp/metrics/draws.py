"""What the metrics are computed from, and the truth beside it."""

from typing import Protocol, runtime_checkable

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
        """Scale of each draw's observation noise, (S, 2n)."""

    @property
    def noise_dof(self) -> float | None:
        """Degrees of freedom of Student's t noise; None for Gaussian noise."""

    def band(self, level: float = 0.9, kind: str = "latent") -> tuple[Tensor, Tensor]:
        """Lower and upper edge of the central band, (N, T, 2n) each."""


def truth_like(truth: ArrayLike, like: Float[Tensor, "n time dim"]) -> Float[Tensor, "n time dim"]:
    """Return the truth as (N, T, 2n), refused where it does not fit the prediction."""
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


def masked_mean(values: Tensor, keep: Bool[Tensor, "..."], dims: tuple[int, ...]) -> Tensor:
    """Mean of the values to keep; NaN where there are none."""
    return values.where(keep, torch.zeros_like(values)).sum(dims) / keep.sum(dims)
