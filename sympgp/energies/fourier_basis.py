"""Random Fourier features beside a quadratic polynomial, and their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies.base import Basis, Linearized, LocalDerivatives
from sympgp.energies.fourier_gradient import FourierGradient
from sympgp.energies.fourier_pass import MOST, local_sums, response_sums


def polynomial_terms(
    dim: int, active: Sequence[int] | None, separable: bool
) -> Int[Tensor, "2 products"]:
    """Rows and columns of the products ``z_i z_j``, ``i <= j``, of a polynomial part."""
    if active is None and not separable:
        return torch.triu_indices(dim, dim)
    entries, half = range(dim) if active is None else active, dim // 2
    pairs = [
        (i, j) for i in entries for j in entries if i <= j and not (separable and i < half <= j)
    ]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).mT


@dataclass(eq=False)
class FourierBasis(Basis):
    """Features ``[cos(Omega z), sin(Omega z), z_i, z_i z_j (half on the diagonal)]``.

    The polynomial part is there when ``prior_variance`` has room for it.

    Attributes:
        frequencies: (M, D) Omega.
        prior_variance: (P,) of the weights.
        active: the entries of the state that the polynomial part is made of; all when None.
        separable: ``H = T(p) + V(q)``: frequencies are zero in the one or the other half, and no
            ``q_i p_j`` is in the polynomial part.
        periods: the coordinates that are angles, each with its period in user units.
    """

    frequencies: Float[Tensor, "features dim"]
    prior_variance: Float[Tensor, " weights"]
    active: tuple[int, ...] | None = None
    separable: bool = False
    periods: tuple[tuple[int, float], ...] = ()

    shares = True
    one_pass = False
    """Whether derivatives at many states are compiled into one loop."""

    @property
    def angles(self) -> dict[int, float]:
        """The coordinates that are angles, and their periods in user units."""
        return dict(self.periods)

    def __post_init__(self) -> None:
        self.num_weights = self.prior_variance.shape[0]
        self.quadratic = self.num_weights > 2 * self.frequencies.shape[0]
        dim, device = self.frequencies.shape[1], self.frequencies.device
        entries = range(dim) if self.active is None else self.active
        self._entries = torch.tensor(list(entries), dtype=torch.long, device=device)
        terms = polynomial_terms(dim, self.active, self.separable)
        self._rows, self._columns = terms.to(device)

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``phi(z)``."""
        phase = z @ self.frequencies.mT
        parts = [phase.cos(), phase.sin()]
        if self.quadratic:
            half = 1.0 - 0.5 * (self._rows == self._columns).to(z.dtype)
            products = half * z[..., self._rows] * z[..., self._columns]
            parts += [z[..., self._entries], products]
        return torch.cat(parts, -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d phi(z) / dz``: ``[-sin(Omega z) Omega, cos(Omega z) Omega, 1, ...]``."""
        phase = (z @ self.frequencies.mT).unsqueeze(-2)
        columns = self.frequencies.mT
        parts = [-phase.sin() * columns, phase.cos() * columns]
        if self.quadratic:
            dim = z.shape[-1]
            identity = torch.eye(dim, dtype=z.dtype, device=z.device)
            linear = identity[:, self._entries]
            parts.append(linear.expand(*z.shape, len(self._entries)))
            parts.append(self._quadratic_gradient(z, identity))
        return torch.cat(parts, -1)

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d phi(z_s) / dz``, stage by stage."""
        phase = z @ self.frequencies.mT
        waves = zip(phase.sin().unbind(1), phase.cos().unbind(1), strict=True)
        return self._gathered(list(waves), z, weights)

    def local_derivatives(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> LocalDerivatives:
        """One sine and one cosine a feature and state, and one product with both."""
        num, dim = self.frequencies.shape
        a, b = w[:num], w[num : 2 * num]
        linear, matrix = self._polynomial(w)
        if self.one_pass:
            slope, hessian, known = local_sums(z, self.frequencies, a, b)
            slope = slope + torch.addmm(linear, z, matrix)
            return LocalDerivatives(slope, hessian.add_(matrix), known)
        phase = z @ self.frequencies.mT
        waves = torch.cat([phase.sin(), phase.cos()], -1)
        outer = (self.frequencies[:, :, None] * self.frequencies[:, None, :]).reshape(num, -1).mT
        columns = self.frequencies.mT
        by_sine = torch.cat([-a * columns, -b * outer])
        by_cosine = torch.cat([b * columns, -a * outer])
        both = (torch.cat([by_sine, by_cosine], -1) @ waves.mT).mT
        slope = torch.addmm(linear, z, matrix) + both[:, :dim]
        hessian = both[:, dim:].reshape(-1, dim, dim) + matrix
        return LocalDerivatives(slope, hessian, waves.tensor_split(2, -1))

    def gathered_gradient(
        self,
        known: Sequence[LocalDerivatives],
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``weighted_gradient`` from the sines and cosines that are known."""
        return self._gathered([one.parts for one in known], z, weights)

    def _gathered(
        self, waves: Sequence[tuple[Tensor, ...]], z: Tensor, weights: Tensor
    ) -> Float[Tensor, "batch out weights"]:
        """Sum over the stages, from the sines and cosines (B, M) at each."""
        if self.one_pass:
            parts = [*response_sums(waves, weights, self.frequencies)]
        else:
            parts = [*self._stage_by_stage(waves, weights)]
        if self.quadratic:
            moment = weights.mT @ z.unsqueeze(1)
            half = 1.0 - 0.5 * (self._rows == self._columns).to(z.dtype)
            both = moment[..., self._rows, self._columns] + moment[..., self._columns, self._rows]
            parts += [weights.sum(2)[..., self._entries], half * both]
        return torch.cat(parts, -1)

    def _stage_by_stage(
        self, waves: Sequence[tuple[Tensor, ...]], weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted gradients of the cosine and of the sine features, (B, out, M) each."""
        columns = self.frequencies.mT
        first = second = weights.new_zeros(())
        for s, (sine, cosine) in enumerate(waves):
            onto = weights[:, :, s] @ columns
            if s == 0:
                first, second = -onto * sine.unsqueeze(1), onto * cosine.unsqueeze(1)
            else:
                first.addcmul_(onto, sine.unsqueeze(1), value=-1.0)
                second.addcmul_(onto, cosine.unsqueeze(1))
        return first, second

    def compiled(self) -> FourierBasis:
        """The same with derivatives at many states in one compiled loop, see ``repays``."""
        if self.frequencies.shape[1] > MOST:
            return self
        return CompiledFourierBasis(**{one.name: getattr(self, one.name) for one in fields(self)})

    def _quadratic_gradient(self, z: Tensor, identity: Tensor) -> Tensor:
        first, second = identity[:, self._rows], identity[:, self._columns]
        half = 1.0 - 0.5 * (self._rows == self._columns).to(z.dtype)
        zi, zj = z[..., None, self._rows], z[..., None, self._columns]
        return half * (first * zj + second * zi)

    def _polynomial(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Linear coefficients (..., D) and the symmetric matrix (..., D, D) of the polynomial."""
        dim = self.frequencies.shape[1]
        rest = w[..., 2 * self.frequencies.shape[0] :]
        linear = rest.new_zeros(*w.shape[:-1], dim)
        matrix = rest.new_zeros(*w.shape[:-1], dim, dim)
        if self.quadratic:
            first, second = rest.tensor_split([len(self._entries)], -1)
            linear[..., self._entries] = first
            matrix[..., self._rows, self._columns] = second
            matrix[..., self._columns, self._rows] = second
        return linear, matrix

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> FourierGradient:
        """One sine a feature: ``a cos + b sin = r cos(omega . z - phase)``."""
        num = self.frequencies.shape[0]
        a, b = w[..., :num], w[..., num : 2 * num]
        output = -torch.hypot(a, b).unsqueeze(-1) * self.frequencies
        linear, matrix = self._polynomial(w)
        return FourierGradient(self.frequencies.mT, torch.atan2(b, a), output, linear, matrix)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``-sum_m (a_m cos + b_m sin) omega_m omega_m' + quadratic part``."""
        num, dim = self.frequencies.shape
        phase = z @ self.frequencies.mT
        curvature = -(w[:num] * phase.cos() + w[num : 2 * num] * phase.sin())
        outer = (self.frequencies[:, :, None] * self.frequencies[:, None, :]).reshape(num, -1)
        return (curvature @ outer).reshape(-1, dim, dim) + self._polynomial(w)[1]

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """One sine and one cosine a feature and state: ``r cos(omega . z - phase)`` again."""
        num, dim = self.frequencies.shape
        draws = len(w)
        columns = self.frequencies.mT.expand(draws, dim, num)
        a, b = w[:, :num], w[:, num : 2 * num]
        phase = torch.baddbmm(-torch.atan2(b, a).unsqueeze(1), z, columns)
        cosine, sine = phase.cos(), phase.sin_()
        radius = -torch.hypot(a, b).unsqueeze(-1)
        outer = (self.frequencies[:, :, None] * self.frequencies[:, None, :]).reshape(num, -1)
        linear, matrix = self._polynomial(w)
        slope = torch.baddbmm(linear.unsqueeze(1), z, matrix)
        slope = torch.baddbmm(slope, sine, radius * self.frequencies)
        hessian = torch.baddbmm(matrix.reshape(draws, 1, -1), cosine, radius * outer)

        def pull_back(pull: Tensor) -> Tensor:
            # By the shifted features sin(omega . z - phase) and cos(...), then turned back.
            turned = pull.mT
            by_sine = ((turned @ cosine) * columns).sum(1)
            by_cosine = -((turned @ sine) * columns).sum(1)
            shift = torch.atan2(b, a)
            c, s = shift.cos(), shift.sin()
            parts = [c * by_cosine - s * by_sine, s * by_cosine + c * by_sine]
            if self.quadratic:
                moment = turned @ z
                half = 1.0 - 0.5 * (self._rows == self._columns).to(z.dtype)
                first = moment[:, self._rows, self._columns]
                second = moment[:, self._columns, self._rows]
                parts += [pull.sum(1)[:, self._entries], half * (first + second)]
            return torch.cat(parts, -1)

        return Linearized(slope, hessian.reshape(*z.shape, dim), pull_back)


class CompiledFourierBasis(FourierBasis):
    """The same features, with derivatives at many states compiled."""

    one_pass = True
