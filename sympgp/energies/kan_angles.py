"""Angles as cosines and sines, so that functions of them are periodic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Embedding:
    """``z -> a``: angles ``z_i`` become ``cos(k z_i)``; ``sin(k z_i)`` follow the other entries.

    Args:
        dim: D.
        periodic: the entries that are angles.
        waves: their k, ``2 pi`` over the period.
    """

    def __init__(
        self, dim: int, periodic: Sequence[int], waves: Float[Tensor, " angles"] | None
    ) -> None:
        self.dim, self.angles = dim, list(periodic)
        self.waves = waves if self.angles else None

    def _phase(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``k``, cosines, sines, and which angle is which entry (angles, D)."""
        assert self.waves is not None  # for the type checker: asked for where there are angles
        k = self.waves.to(z)
        phase = k * z[..., self.angles]
        places = torch.eye(self.dim, dtype=z.dtype, device=z.device)[self.angles]
        return k, phase.cos(), phase.sin(), places

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch wide"]:
        """``a``."""
        if self.waves is None:
            return z
        _, cosine, sine, places = self._phase(z)
        plain = z * (1.0 - places.sum(0))
        return torch.cat([plain + cosine @ places, sine], -1)

    def jacobian(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch wide dim"]:
        """``da / dz``."""
        if self.waves is None:
            eye = torch.eye(self.dim, dtype=z.dtype, device=z.device)
            return eye.expand(*z.shape, self.dim)
        k, cosine, sine, places = self._phase(z)
        diagonal = 1.0 - places.sum(0) - (k * sine) @ places
        return torch.cat([torch.diag_embed(diagonal), (k * cosine).unsqueeze(-1) * places], -2)

    def pulled(
        self, covector: Float[Tensor, "*batch wide"], z: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim"]:
        """``(da / dz)' g``."""
        if self.waves is None:
            return covector
        return torch.einsum("...wd,...w->...d", self.jacobian(z), covector)

    def bend(
        self, covector: Float[Tensor, "*batch wide"], z: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim dim"] | None:
        """``sum_w g_w d2 a_w / dz2``; None where it is zero."""
        if self.waves is None:
            return None
        k, cosine, sine, places = self._phase(z)
        along = cosine * covector[..., self.angles] + sine * covector[..., self.dim :]
        return torch.diag_embed(-(k.square() * along) @ places)
