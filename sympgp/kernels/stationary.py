"""Squared-exponential and Matern covariances of H with their derivatives in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from scipy.special import gammaincinv
from torch import Tensor

from sympgp.energies import quasi_random_frequencies
from sympgp.kernels.energy import EnergyKernel, Expansion, Spectrum

NORMAL, CAUCHY = 4.0, 16.0
"""How much larger the volume of the sampled spectral points is than that of the density's own."""
SMOOTHNESS = (1.5, 2.5, math.inf)
"""Known Matern smoothness; infinite for the squared exponential."""


@dataclass(frozen=True)
class Stationary(EnergyKernel):
    """``k(x, x') = variance * kappa(s)`` with ``s = sum_i (inverse_i (x_i - x'_i))^2``.

    ``kappa(s) = exp(-s / 2)`` is the squared exponential (RBF); Matern kernels are functions of
    ``r = sqrt(2 nu s)``: ``(1 + r + r^2 / 3) exp(-r)`` for nu = 5/2 and ``(1 + r) exp(-r)`` for
    3/2. With ``delta = x - x'`` and ``L = diag(inverse^2)`` the derivatives are

        dk/dx' = a L delta,    d2k / dx dx' = a L - b L delta delta' L,

    ``a = -2 variance kappa'(s)`` and ``b = 4 variance kappa''(s)``.

    Attributes:
        inverse: (*batch, 1, D) one over the lengthscales; zero where k does not depend on x_i.
        variance: (*batch).
        nu: 1.5, 2.5 or infinite.
        active: coordinates that k depends on, to leave out the others; all when None.

    Example:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> kernel = Stationary(one.expand(1, 2), one, math.inf)
        >>> kernel.hessian_at(torch.zeros(1, 2, dtype=torch.float64))
        tensor([[[1., 0.],
                 [0., 1.]]], dtype=torch.float64)
    """

    inverse: Float[Tensor, "*batch 1 dim"]
    variance: Float[Tensor, "*batch"]
    nu: float
    active: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.nu not in SMOOTHNESS:
            raise ValueError(f"nu: expected one of {SMOOTHNESS}, got {self.nu!r}")

    def profile(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``kappa``, ``-2 kappa'`` and ``4 kappa''``."""
        if self.nu == math.inf:
            value = torch.exp(-0.5 * s)
            return value, value, value
        # The derivative of the root is infinite at zero, where nothing depends on it any more.
        r = (2.0 * self.nu * s).clamp(min=1e-30).sqrt()
        decay = torch.exp(-r)
        if self.nu == 2.5:
            first = (5.0 / 3.0) * (1.0 + r) * decay
            return (1.0 + r + r**2 / 3.0) * decay, first, (25.0 / 3.0) * decay
        return (1.0 + r) * decay, 3.0 * decay, 9.0 * decay / r

    @property
    def _slope(self) -> float:
        """``-2 kappa'(0)``."""
        return {1.5: 3.0, 2.5: 5.0 / 3.0, math.inf: 1.0}[self.nu]

    def _separation(self, x: Tensor, y: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """``inverse * (x - y)`` of all pairs by active coordinate, and s."""
        # One array a coordinate: sums over a short last axis are slow.
        white, other = x * self.inverse, y * self.inverse
        active = range(x.shape[-1]) if self.active is None else self.active
        apart = {i: white[..., i].unsqueeze(-1) - other[..., i].unsqueeze(-2) for i in active}
        squares = [part.square() for part in apart.values()]
        s = squares[0]
        for part in squares[1:]:
            s = s + part
        return apart, s

    def value(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns"]:
        """``k(x, y)``."""
        value, _, _ = self.profile(self._separation(x, y)[1])
        return self.variance[..., None, None] * value

    def gradient(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim"]:
        """``dk/dy``."""
        apart, s = self._separation(x, y)
        weight = self.variance[..., None, None] * self.profile(s)[1]
        columns = [torch.zeros_like(weight)] * x.shape[-1]
        for i, part in apart.items():
            columns[i] = weight * part * self.inverse[..., i].unsqueeze(-1)
        return torch.stack(columns, -1)

    def hessian(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim dim"]:
        """``d2k / dx dy'``."""
        apart, s = self._separation(x, y)
        _, first, second = self.profile(s)
        variance = self.variance[..., None, None]
        first, second = variance * first, variance * second
        inverse = {i: self.inverse[..., i].unsqueeze(-1) for i in apart}
        onto = {i: part * inverse[i] for i, part in apart.items()}
        dim, zero = x.shape[-1], torch.zeros_like(first)
        entries = [[zero] * dim for _ in range(dim)]
        for i in onto:
            weight = second * onto[i]
            for j in onto:
                if j >= i:
                    entries[i][j] = entries[j][i] = -weight * onto[j]
            entries[i][i] = first * inverse[i].square() + entries[i][i]
        return torch.stack([torch.stack(row, -1) for row in entries], -2)

    def variance_at(self, x: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*both rows"]:
        """``variance`` everywhere."""
        return self.variance.unsqueeze(-1) * torch.ones_like(x[..., 0])

    def hessian_at(
        self, x: Float[Tensor, "*batch rows dim"]
    ) -> Float[Tensor, "*both rows dim dim"]:
        """``-2 kappa'(0) variance L`` everywhere."""
        square = torch.diag_embed(self.inverse.square())
        weight = self._slope * self.variance[..., None, None, None]
        return weight * square * torch.ones_like(x[..., 0])[..., None, None]

    def expansion(
        self, centers: Float[Tensor, "centers dim"], u: Float[Tensor, "*draws centers dim"]
    ) -> StationaryExpansion:
        """By matrix products; for kernels without batches."""
        return StationaryExpansion.of(self, centers, u)

    def scaled(self, factor: Float[Tensor, "*batch"]) -> Stationary:
        """``factor * k``."""
        return replace(self, variance=factor * self.variance)

    def spectrum(self, dim: int, num_features: int, seed: int) -> Spectrum:
        """Spectral points from a density broader than the kernel's own, with weights for it.

        The own density p of ``omega / inverse`` is normal, or Student's t with 2 nu degrees of
        freedom for a Matern kernel. What data leave open is in its tail, where few points of p
        would lie. The points come from ``q(omega / c) / c^d`` with q normal, or Student's t with
        one degree of freedom, and weigh ``p(omega) / q(omega / c)``.
        """
        active = list(range(dim) if self.active is None else self.active)
        count, heavy = len(active), self.nu < math.inf
        normal = quasi_random_frequencies(num_features, count + heavy, seed)
        points, own, wide = normal[:, :count], math.inf, NORMAL
        if heavy:
            own, wide = 2.0 * self.nu, CAUCHY
            uniform = torch.special.ndtr(normal[:, count])
            gamma = torch.as_tensor(gammaincinv(0.5, uniform.numpy()))  # half of a chi-squared
            points = points * (0.5 / gamma).sqrt().unsqueeze(-1)
        spectral = wide ** (1.0 / count) * points
        ratio = _log_student(spectral, own) - _log_student(points, 1.0 if heavy else math.inf)
        frequencies = torch.zeros(num_features, dim, dtype=torch.float64)
        frequencies[:, active] = spectral
        weights = torch.softmax(ratio, 0).to(self.inverse)
        none = torch.zeros_like(self.variance)
        return Spectrum(frequencies.to(self.inverse) * self.inverse, self.variance * weights, none)

    def to(self, like: Tensor) -> Stationary:
        """Detached copy."""
        inverse, variance = self.inverse.detach().to(like), self.variance.detach().to(like)
        return replace(self, inverse=inverse, variance=variance)

    def plain(self) -> dict[str, Any]:
        """Kind and attributes."""
        return {
            "kind": "stationary",
            "inverse": self.inverse,
            "variance": self.variance,
            "nu": self.nu,
            "active": None if self.active is None else list(self.active),
        }


def _log_student(points: Tensor, dof: float) -> Tensor:
    """Log density of Student's t at points (M, d), up to a constant; normal for infinite dof."""
    square = points.square().sum(-1)
    if dof == math.inf:
        return -0.5 * square
    return -0.5 * (dof + points.shape[1]) * torch.log1p(square / dof)


@dataclass(frozen=True)
class StationaryExpansion(Expansion):
    """``h(z) = sum_j a_j delta_j . L u_j`` without the separations of all pairs.

    Attributes:
        kernel: the covariance.
        white: (N, D) centers over the lengthscales.
        onto: (*draws, N, D) ``variance * inverse * u``.
        base: (*draws, 1, N) ``white_j . onto_j``.
        square: (N,) ``|white_j|^2``.
    """

    kernel: Stationary
    white: Float[Tensor, "centers dim"]
    onto: Float[Tensor, "*draws centers dim"]
    base: Float[Tensor, "*draws 1 centers"]
    square: Float[Tensor, " centers"]

    @classmethod
    def of(cls, kernel: Stationary, centers: Tensor, u: Tensor) -> StationaryExpansion:
        """Prepare what does not depend on the state."""
        white = centers * kernel.inverse
        onto = kernel.variance * kernel.inverse * u
        base = (white * onto).sum(-1).unsqueeze(-2)
        return cls(kernel, white, onto, base, white.square().sum(-1))

    def _parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """States over the lengthscales, ``a`` and ``b`` over the variance, ``delta_j . L u_j``."""
        if z.dim() > 2 and z.stride(0) == 0:  # the same states for all draws
            z = z[0]
        white = z * self.kernel.inverse
        own = white.square().sum(-1, keepdim=True)
        s = (own + self.square - 2.0 * white @ self.white.mT).clamp(min=0.0)
        _, first, second = self.kernel.profile(s)
        return white, first, second, white @ self.onto.mT - self.base

    def value(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows"]:
        """``h(z)``."""
        _, first, _, along = self._parts(z)
        return (first * along).sum(-1)

    def gradient(self, z: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*batch rows dim"]:
        """``sum_j (a_j - b_j L delta_j delta_j') L u_j``."""
        white, first, second, along = self._parts(z)
        weight = second * along
        total = first @ self.onto + weight @ self.white - white * weight.sum(-1, keepdim=True)
        return total * self.kernel.inverse
