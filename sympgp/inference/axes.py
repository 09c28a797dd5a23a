"""Axes of a Gaussian over parameters that data determine, and small factors beside them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.cholesky import cholesky as factorised

INFORMED = 0.01
"""Least share of an axis's precision that comes from the data: below, its standard deviation is
within half a per cent of what it is without them."""
JITTER = 50.0
"""Units of round-off of their largest entry, added to covariances that are nearly singular."""


def informed(
    root: Float[Tensor, "params params"], prior_precision: Float[Tensor, " params"], fixed: int
) -> tuple[Float[Tensor, "params params"], Int[Tensor, " active"]]:
    """Turned axes of the white space, those first that the data determine most, and these.

    The share of the precision that is not the prior's has eigenvalues between zero and one; the
    last ``fixed`` axes stay where they are and always count.
    """
    num = len(root) - fixed
    part = root[:, :num]
    share = torch.eye(num).to(root) - (part.mT * prior_precision) @ part
    values, vectors = torch.linalg.eigh(0.5 * (share + share.mT))
    axes = torch.eye(len(root)).to(root)
    axes[:num, :num] = vectors.flip(1)
    count = max(1, int((values > INFORMED).sum()))
    kept = list(range(count)) + list(range(num, len(root)))
    return axes, torch.tensor(kept, device=root.device)


def along(slope: Float[Tensor, "windows dim params"], u: Float[Tensor, "draws params"]) -> Tensor:
    """``slope_k u`` of every window and draw, (S, W, D)."""
    return (u @ slope.flatten(0, 1).mT).unflatten(1, slope.shape[:2])


def cholesky(cov: Float[Tensor, "*batch dim dim"]) -> Float[Tensor, "*batch dim dim"]:
    """Cholesky factors of small covariances that may be nearly singular."""
    size = cov.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    unit = JITTER * torch.finfo(cov.dtype).eps
    jitter = torch.diag_embed((unit * size).expand(cov.shape[:-1]))
    return factorised(cov + jitter, "the covariance of a window's state")
