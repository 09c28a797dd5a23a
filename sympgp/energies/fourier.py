"""A Gaussian process prior on H through random Fourier features (Tanaka et al. 2022, eq. 10)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import (
    Basis,
    Energy,
    GradientMap,
    Hyperparameters,
    Linearized,
    LogNormal,
)
from sympgp.phase_space import join, split

FrequencyDraw = Callable[[int, int, int], Tensor]


def independent_frequencies(num_features: int, dim: int, seed: int) -> Tensor:
    """Independent standard normal spectral points (M, D) of the squared-exponential kernel."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_features, dim, generator=generator, dtype=torch.float64)


def quasi_random_frequencies(num_features: int, dim: int, seed: int) -> Tensor:
    """Scrambled Sobol points through the normal quantile function, (M, D).

    Their kernel error falls faster than the Monte Carlo rate of independent points.
    """
    sobol = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)
    uniform = sobol.draw(num_features, dtype=torch.float64)
    tiny = 0.5 / 2**30
    return math.sqrt(2.0) * torch.erfinv(2.0 * uniform.clamp(tiny, 1.0 - tiny) - 1.0)


class FourierEnergy(Energy):
    """``H(z) = sum_m a_m cos(omega_m . z) + b_m sin(omega_m . z)`` beside a quadratic polynomial.

    ``omega_m`` are fixed base draws divided by the lengthscales. Of the M spectral points, k lie in
    the half space of the coordinates, k in that of the momenta, and the others anywhere. With
    weights ``N(0, separable_scale^2 / k)`` and ``N(0, signal_scale^2 / (M - 2 k))``, H is a
    Gaussian process ``V(q) + T(p) + U(q, p)`` with the kernel

        separable_scale^2 (k_SE(q, q') + k_SE(p, p')) + signal_scale^2 k_SE(z, z')

    as M grows, where ``k_SE = exp(-|(z - z') / lengthscale|^2 / 2)``: the energies of most systems
    are sums, or nearly so, and the evidence of the data decides between the parts. Linear and
    quadratic features (kinetic energies are quadratic) have weights ``N(0, quadratic_scale^2)``.

    Args:
        num_dof: degrees of freedom n.
        num_features: spectral points M; the weights number 2 M.
        quadratic: add the linear and quadratic features.
        separable: share 2 k / M of the spectral points that make up V and T.
        frequencies: how the base draws are made, ``(M, D, seed) -> (M, D)``.
        seed: seed of the base draws.

    Raises:
        ValueError: a count below one; a share outside [0, 1).

    Example:
        >>> energy = FourierEnergy(num_dof=1, num_features=8)
        >>> spread = torch.ones(2, dtype=torch.float64)
        >>> priors = energy.hyperpriors(spread)
        >>> basis = energy.basis({name: prior.median for name, prior in priors.items()})
        >>> basis.features(torch.zeros(3, 2, dtype=torch.float64)).shape
        torch.Size([3, 21])

    Sources: Tanaka et al. (2022), eq. 10, for the Fourier features; Duvenaud, Nickisch and
    Rasmussen, *Additive Gaussian processes*, NeurIPS 2011, for sums over groups of inputs.
    """

    def __init__(
        self,
        num_dof: int,
        num_features: int = 100,
        *,
        quadratic: bool = True,
        separable: float | int = 0.5,
        frequencies: FrequencyDraw = quasi_random_frequencies,
        seed: int = 0,
    ) -> None:
        for name, count in (("num_dof", num_dof), ("num_features", num_features)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {count!r}")
        if isinstance(separable, bool) or not 0 <= separable < 1:
            raise ValueError(f"separable: expected a share in [0, 1), got {separable!r}")
        self.num_dof = num_dof
        self.num_features = num_features
        self.quadratic = quadratic
        self.separable = separable
        self.frequencies = frequencies
        self.seed = seed
        self.num_half = int(0.5 * separable * num_features)
        base = frequencies(num_features - 2 * self.num_half, 2 * num_dof, seed)
        if self.num_half:
            half = frequencies(self.num_half, 2 * num_dof, seed + 1)
            q, p = split(half)
            zero = torch.zeros_like(q)
            base = torch.cat([base, join(q, zero), join(zero, p)])
        self.base_frequencies = base

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Lengthscales near two standard deviations of each channel; scales near one."""
        one = torch.ones((), dtype=spread.dtype, device=spread.device)
        priors = {
            "lengthscale": LogNormal(2.0 * spread, 0.5),
            "signal_scale": LogNormal(2.0 * one, 1.0),
        }
        if self.num_half:
            priors["separable_scale"] = LogNormal(2.0 * one, 1.0)
        if self.quadratic:
            priors["quadratic_scale"] = LogNormal(0.5 * one, 1.0)
        return priors

    def basis(self, hyperparameters: Hyperparameters) -> FourierBasis:
        """Spectral points and prior variances for these hyperparameters."""
        lengthscale = hyperparameters["lengthscale"]
        frequencies = self.base_frequencies.to(lengthscale) / lengthscale
        joint = self.num_features - 2 * self.num_half
        variance = (hyperparameters["signal_scale"] ** 2 / joint).reshape(1).expand(joint)
        if self.num_half:
            own = (hyperparameters["separable_scale"] ** 2 / self.num_half).reshape(1)
            variance = torch.cat([variance, own.expand(2 * self.num_half)])
        variances = [variance, variance]
        if self.quadratic:
            dim = 2 * self.num_dof
            quadratic = (hyperparameters["quadratic_scale"] ** 2).reshape(1)
            variances.append(quadratic.expand(dim + dim * (dim + 1) // 2))
        return FourierBasis(frequencies, torch.cat(variances))

    def redraw(self, seed: int) -> FourierEnergy:
        """The same prior with base frequencies drawn from another seed."""
        return FourierEnergy(
            self.num_dof,
            self.num_features,
            quadratic=self.quadratic,
            separable=self.separable,
            frequencies=self.frequencies,
            seed=seed,
        )


class FourierBasis(Basis):
    """Features ``[cos(Omega z), sin(Omega z), z_i, z_i z_j (half on the diagonal)]``.

    The polynomial part is there when ``prior_variance`` has room for it.
    """

    def __init__(
        self, frequencies: Float[Tensor, "features dim"], prior_variance: Float[Tensor, " weights"]
    ) -> None:
        self.frequencies = frequencies
        self.prior_variance = prior_variance
        self.num_weights = prior_variance.shape[0]
        self.quadratic = self.num_weights > 2 * frequencies.shape[0]
        dim = frequencies.shape[1]
        self._rows, self._columns = torch.triu_indices(dim, dim, device=frequencies.device)

    def features(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch weights"]:
        """``phi(z)``."""
        phase = z @ self.frequencies.mT
        parts = [phase.cos(), phase.sin()]
        if self.quadratic:
            half = 1.0 - 0.5 * (self._rows == self._columns).to(z.dtype)
            parts += [z, half * z[..., self._rows] * z[..., self._columns]]
        return torch.cat(parts, -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d phi(z) / dz``: ``[-sin(Omega z) Omega, cos(Omega z) Omega, 1, ...]``."""
        phase = (z @ self.frequencies.mT).unsqueeze(-2)
        columns = self.frequencies.mT
        parts = [-phase.sin() * columns, phase.cos() * columns]
        if self.quadratic:
            dim = z.shape[-1]
            identity = torch.eye(dim, dtype=z.dtype, device=z.device)
            parts.append(identity.expand(*z.shape, dim))
            parts.append(self._quadratic_gradient(z, identity))
        return torch.cat(parts, -1)

    def weighted_gradient(
        self, z: Float[Tensor, "batch stages dim"], weights: Float[Tensor, "batch out stages dim"]
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d phi(z_s) / dz``, stage by stage."""
        columns = self.frequencies.mT
        phase = z @ columns
        sine, cosine = phase.sin().unsqueeze(1), phase.cos().unsqueeze(1)
        first = second = z.new_zeros(())
        for s in range(z.shape[1]):
            onto = weights[:, :, s] @ columns
            first = torch.addcmul(first, onto, sine[:, :, s], value=-1.0)
            second = torch.addcmul(second, onto, cosine[:, :, s])
        parts = [first, second]
        if self.quadratic:
            moment = weights.mT @ z.unsqueeze(1)
            half = 1.0 - 0.5 * (self._rows == self._columns).to(z.dtype)
            both = moment[..., self._rows, self._columns] + moment[..., self._columns, self._rows]
            parts += [weights.sum(2), half * both]
        return torch.cat(parts, -1)

    def _quadratic_gradient(self, z: Tensor, identity: Tensor) -> Tensor:
        first, second = identity[:, self._rows], identity[:, self._columns]
        half = 1.0 - 0.5 * (self._rows == self._columns).to(z.dtype)
        zi, zj = z[..., None, self._rows], z[..., None, self._columns]
        return half * (first * zj + second * zi)

    def _polynomial(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Linear coefficients (..., D) and the symmetric matrix (..., D, D) of the polynomial."""
        dim = self.frequencies.shape[1]
        rest = w[..., 2 * self.frequencies.shape[0] :]
        if not self.quadratic:
            return rest.new_zeros(*w.shape[:-1], dim), rest.new_zeros(*w.shape[:-1], dim, dim)
        matrix = rest.new_zeros(*w.shape[:-1], dim, dim)
        matrix[..., self._rows, self._columns] = rest[..., dim:]
        matrix[..., self._columns, self._rows] = rest[..., dim:]
        return rest[..., :dim], matrix

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
                parts += [pull.sum(1), half * (first + second)]
            return torch.cat(parts, -1)

        return Linearized(slope, hessian.reshape(*z.shape, dim), pull_back)


class FourierGradient(GradientMap):
    """``sin(z Omega' - phase) @ output + z @ matrix + offset``, draws on a leading axis."""

    def __init__(
        self, columns: Tensor, phase: Tensor, output: Tensor, offset: Tensor, matrix: Tensor
    ) -> None:
        self.columns, self.output, self.matrix = columns, output, matrix
        self.phase, self.offset = phase.unsqueeze(-2), offset.unsqueeze(-2)

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (B, D) states, or (S, B, D) for S draws."""
        wave = (z @ self.columns).sub_(self.phase).sin_()
        if z.dim() == 2:
            return torch.addmm(torch.addmm(self.offset, z, self.matrix), wave, self.output)
        affine = torch.baddbmm(self.offset, z, self.matrix)
        return torch.baddbmm(affine, wave, self.output)

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> FourierGradient:
        """Fold ``matrix`` into the output side."""
        right = matrix.mT
        return FourierGradient(
            self.columns,
            self.phase.squeeze(-2),
            self.output @ right,
            (self.offset @ right).squeeze(-2),
            self.matrix @ right,
        )

    def first(self) -> FourierGradient:
        """The first of several draws alone, still with a draw axis."""
        return FourierGradient(
            self.columns,
            self.phase[:1].squeeze(-2),
            self.output[:1],
            self.offset[:1].squeeze(-2),
            self.matrix[:1],
        )
