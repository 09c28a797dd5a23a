"""Phase space: the symplectic matrix, (q, p) order and canonical scaling.

States are vectors ``x = (q_1..q_n, p_1..p_n)``: all coordinates first, then all momenta.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def symplectic_matrix(
    num_dof: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Float[Tensor, "dim dim"]:
    """Return ``J = [[0, I], [-I, 0]]`` of size (2n, 2n).

    Example:
        >>> symplectic_matrix(1)
        tensor([[ 0.,  1.],
                [-1.,  0.]], dtype=torch.float64)
    """
    identity = torch.eye(num_dof, dtype=dtype, device=device)
    zero = torch.zeros_like(identity)
    return torch.cat([torch.cat([zero, identity], 1), torch.cat([-identity, zero], 1)], 0)


def split(x: Float[Tensor, "*batch dim"]) -> tuple[Tensor, Tensor]:
    """Split states (..., 2n) into coordinates and momenta, (..., n) each."""
    num_dof = x.shape[-1] // 2
    return x[..., :num_dof], x[..., num_dof:]


def join(q: Float[Tensor, "*batch dof"], p: Float[Tensor, "*batch dof"]) -> Tensor:
    """Join coordinates and momenta (..., n) into states (..., 2n)."""
    return torch.cat([q, p], -1)


@dataclass(frozen=True)
class CanonicalScaling:
    """Change of units ``x = center + scale z``, ``t = time_origin + time_scale s``, canonical.

    The products ``scale_q[i] * scale_p[i] = kappa`` are the same for every degree of freedom, so
    that ``dx/dt = (J - R) grad H`` becomes ``dz/ds = (J - R~) grad H~`` with the same ``J``:

        H~ = time_scale * H / kappa,    R~ = kappa * S^-1 R S^-1,    S = diag(scale).

    Attributes:
        center: (2n,) user units.
        scale: (2n,) user units per scaled unit.
        time_scale: user time per scaled time, a scalar tensor.
        time_origin: user time at scaled time zero.
        spread: (2n,) standard deviation of each channel of the data in scaled units.
    """

    center: Float[Tensor, " dim"]
    scale: Float[Tensor, " dim"]
    time_scale: Float[Tensor, ""]
    time_origin: Float[Tensor, ""]
    spread: Float[Tensor, " dim"]

    @classmethod
    def from_spread(
        cls,
        center: Float[Tensor, " dim"],
        spread: Float[Tensor, " dim"],
        time_scale: Float[Tensor, ""],
        time_origin: Float[Tensor, ""],
    ) -> CanonicalScaling:
        """Scale so that every channel's spread is near one while the products stay equal.

        With ``kappa`` the geometric mean of ``spread_q[i] * spread_p[i]``, each degree of freedom
        takes ``scale_q = sqrt(kappa * spread_q / spread_p)`` and ``scale_p = kappa / scale_q``;
        for one degree of freedom these are the spreads themselves.
        """
        q, p = split(spread)
        kappa = (q * p).log().mean().exp()
        scale_q = (kappa * q / p).sqrt()
        scale = join(scale_q, kappa / scale_q)
        return cls(center, scale, time_scale, time_origin, spread / scale)

    @property
    def num_dof(self) -> int:
        """Number of degrees of freedom n."""
        return self.scale.shape[0] // 2

    @property
    def kappa(self) -> Float[Tensor, ""]:
        """The common product ``scale_q[i] * scale_p[i]``."""
        return self.scale[0] * self.scale[self.num_dof]

    @property
    def energy_scale(self) -> Float[Tensor, ""]:
        """User energy per scaled energy, ``H = energy_scale * H~``."""
        return self.kappa / self.time_scale

    @property
    def velocity_scale(self) -> Float[Tensor, " dim"]:
        """User ``dx/dt`` per scaled ``dz/ds``."""
        return self.scale / self.time_scale

    def to_scaled(self, x: Float[Tensor, "*batch dim"]) -> Tensor:
        """``z = (x - center) / scale``."""
        return (x - self.center) / self.scale

    def to_user(self, z: Float[Tensor, "*batch dim"]) -> Tensor:
        """``x = center + scale * z``."""
        return self.center + self.scale * z

    def to_scaled_time(self, t: Float[Tensor, "*times"]) -> Tensor:
        """``s = (t - time_origin) / time_scale``."""
        return (t - self.time_origin) / self.time_scale

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> CanonicalScaling:
        """Copy on another device or in another dtype."""
        fields = (self.center, self.scale, self.time_scale, self.time_origin, self.spread)
        return CanonicalScaling(*(f.to(device=device, dtype=dtype) for f in fields))
