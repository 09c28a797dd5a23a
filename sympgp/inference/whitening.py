"""Unknowns of a fit as functions of nearly independent standard normal numbers.

The Gauss-Newton posterior is a Gaussian, so a change of variables turns it into a standard normal
law. A sampler that moves in those variables sees a posterior that is nearly round, whatever the
units and correlations, and only has to find out what is not Gaussian about it. One after another,
each given those before it:

    hyperparameters   log h = mean + root xi           only where they are unknown
    noise             log sigma = log sigma_0 + width xi
    friction          rho = unit softplus(shift + xi)    never negative
                      rho = mean + root xi               where parameters have any sign
    window states     dz = mean + root (xi, rho)         linear in the friction
    weights           w = offset(h) + slope(h) (dz, drho) + root(h) xi

The weights follow the hyperparameters: with other features other weights describe the same field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sympgp.cholesky import cholesky
from sympgp.energies.base import Basis, Energy
from sympgp.inference.evidence import HyperPosterior
from sympgp.inference.linear_model import LinearModel
from sympgp.noise import ScaledNoise
from sympgp.posterior.truncated import truncated_moments


class Unknowns(NamedTuple):
    """Draws of everything unknown, scaled units.

    Attributes:
        theta: (S, P + K).
        noise_std: (S, D).
        start: (S, W, D).
        log_hyper: (S, H) logarithms of the hyperparameters; H is zero where they are fixed.
        log_volume: (S,) log determinant of the derivative of weights, friction, log noise, states
            and log_hyper with respect to the standard normal numbers, up to a constant.
    """

    theta: Float[Tensor, "draws params"]
    noise_std: Float[Tensor, "draws dim"]
    start: Float[Tensor, "draws windows dim"]
    log_hyper: Float[Tensor, "draws hyper"]
    log_volume: Float[Tensor, " draws"]


class WeightLaw(NamedTuple):
    """``w = offset + slope s + root xi``: weights given states and friction, for one basis.

    Attributes:
        offset: (P,).
        slope: (P, S).
        root: (P, P).
        log_volume: log determinant of the root.
    """

    offset: Float[Tensor, " weights"]
    slope: Float[Tensor, "weights local"]
    root: Float[Tensor, "weights weights"]
    log_volume: Float[Tensor, ""]

    @classmethod
    def of(cls, linear: LinearModel, basis: Basis) -> WeightLaw:
        """From the rows of the linear model, differentiable in the basis."""
        stddev = linear.field.with_basis(basis).weight_variance.sqrt()
        rows = linear.rows(basis) * stddev
        eye = torch.eye(len(stddev), dtype=rows.dtype, device=rows.device)
        factor, failed = torch.linalg.cholesky_ex(rows.mT @ rows + eye)
        # Where numbers break down, far out, nothing is possible.
        factor = torch.where(failed > 0, eye, factor)
        root = stddev[:, None] * torch.linalg.solve_triangular(factor.mT, eye, upper=True)
        sides = torch.cat([linear.target.unsqueeze(1), -linear.lever], 1)
        solved = torch.linalg.solve_triangular(factor, rows.mT @ sides, upper=False)
        found = root @ solved
        volume = stddev.log().sum() - factor.diagonal().log().sum()
        volume = torch.where(failed > 0, -torch.inf, volume)
        return cls(found[:, 0], found[:, 1:], root, volume)


@dataclass(frozen=True)
class Whitening:
    """The change of variables, see the module.

    Attributes:
        linear: the model about the solution.
        start: (W, D) window states of the solution.
        mean, root: (S,), (S, S) of states and friction ``s``, the root upper triangular.
        damping_mean, damping_unit, damping_shift: (K,) of the friction, the last two where it is
            never negative.
        noise_std, noise_width: (D,) of the solution; the width is zero where it is known.
        level: (D,) which noise number each channel has.
        num_levels: how many there are.
        law: of the weights, where hyperparameters are fixed.
        hyper: of the hyperparameters, where they are unknown.
        energy: from hyperparameters to features.
    """

    linear: LinearModel
    start: Float[Tensor, "windows dim"]
    mean: Float[Tensor, " local"]
    root: Float[Tensor, "local local"]
    damping_mean: Float[Tensor, " k"]
    damping_unit: Float[Tensor, " k"]
    damping_shift: Float[Tensor, " k"]
    noise_std: Float[Tensor, " dim"]
    noise_width: Float[Tensor, " dim"]
    level: Int[Tensor, " dim"]
    num_levels: int
    law: WeightLaw
    hyper: HyperPosterior | None = None
    energy: Energy | None = None

    @classmethod
    def about(
        cls,
        linear: LinearModel,
        start: Float[Tensor, "windows dim"],
        noise: ScaledNoise,
        noise_std: Float[Tensor, " dim"],
        noise_shape: Float[Tensor, " dim"],
        hyper: HyperPosterior | None = None,
        energy: Energy | None = None,
    ) -> Whitening:
        """Whiten by a linear model.

        Args:
            linear: about a solution.
            start: its window states.
            noise: what is known of the noise.
            noise_std: (D,) of the solution.
            noise_shape: (D,) of the inverse-gamma posterior of the noise variance.
            hyper: approximate posterior of the hyperparameters, if they are unknowns.
            energy: the features they belong to.
        """
        mean, root = _local_law(linear)
        num_damping = linear.field.dissipation.num_parameters
        prior_mode = linear.theta[linear.field.num_weights :]
        last = len(mean) - num_damping
        centre, deviation = prior_mode + mean[last:], root[last:].square().sum(1).sqrt()
        unit, shift = deviation, centre / deviation
        if linear.field.dissipation.truncated:
            cut, variance = truncated_moments(centre, deviation)
            unit = variance.sqrt()
            shift = cut / unit + torch.log(-torch.expm1(-cut / unit))
        channels = torch.arange(len(noise_std), device=noise_std.device)
        free = noise.known.isnan()
        own = free & (noise.group == channels)
        number = own.cumsum(0) - 1
        return cls(
            linear=linear,
            start=start,
            mean=mean,
            root=root,
            damping_mean=centre,
            damping_unit=unit,
            damping_shift=shift,
            noise_std=noise_std,
            noise_width=torch.where(free, 0.5 * noise_shape.rsqrt(), 0.0),
            level=number[noise.group].clamp(min=0),
            num_levels=int(own.sum()),
            law=WeightLaw.of(linear, linear.field.basis),
            hyper=hyper,
            energy=energy,
        )

    @property
    def truncated(self) -> bool:
        """Whether the friction is cut to be non-negative."""
        return self.linear.field.dissipation.truncated

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Numbers of hyperparameters, noise levels, frictions, state entries and weights."""
        num_damping = len(self.damping_unit)
        hyper = 0 if self.hyper is None else len(self.hyper.mean)
        local = len(self.mean) - num_damping
        return hyper, self.num_levels, num_damping, local, self.linear.field.num_weights

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return sum(self.sizes)

    def __call__(self, white: Float[Tensor, "draws unknowns"]) -> Unknowns:
        """The unknowns of each row, differentiable."""
        hyper, level, damping, local, weights = white.split(self.sizes, 1)
        sigma = self.noise_std.expand(len(white), -1)
        if self.num_levels:
            sigma = sigma * (self.noise_width * level[:, self.level]).exp()
        rho, along, volume = self._friction(damping)
        last = local.shape[1]
        s = self.mean + torch.cat([local, along], 1) @ self.root.mT
        if self.hyper is None:
            log_hyper = hyper
            w = self.law.offset + s @ self.law.slope.mT + weights @ self.law.root.mT
        else:
            log_hyper, w, added = self._weights(self.hyper, hyper, s, weights)
            volume = volume + added
        start = self.start + s[:, :last].reshape(len(s), *self.start.shape)
        return Unknowns(torch.cat([w, rho], 1), sigma, start, log_hyper, volume)

    def _friction(self, white: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Friction, its place along the root's last columns, and its log volume, row by row."""
        count = white.shape[1]
        root = self.root[len(self.root) - count :, len(self.root) - count :]
        if not self.truncated:
            return self.damping_mean + white @ root.mT, white, torch.zeros_like(white).sum(1)
        shifted = self.damping_shift + white
        rho = self.damping_unit * functional.softplus(shifted)
        off = (rho - self.damping_mean).mT
        along = torch.linalg.solve_triangular(root, off, upper=True).mT
        return rho, along, functional.logsigmoid(shifted).sum(1)

    def _weights(
        self, posterior: HyperPosterior, hyper: Tensor, s: Tensor, white: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log hyperparameters, the weights that go with them, and their log volume."""
        if self.energy is None:
            raise RuntimeError("hyperparameters without an energy")
        root = cholesky(posterior.covariance, "the covariance of the hyperparameters")
        log_hyper = posterior.mean + hyper @ root.mT
        rows, volumes = [], []
        for log, own, xi in zip(log_hyper, s, white, strict=True):
            law = WeightLaw.of(self.linear, self.energy.basis(posterior.hyperparameters(log)))
            rows.append(law.offset + law.slope @ own + law.root @ xi)
            volumes.append(law.log_volume)
        return log_hyper, torch.stack(rows), torch.stack(volumes)


def _local_law(linear: LinearModel) -> tuple[Tensor, Tensor]:
    """Mean and upper triangular root of states and friction, weights integrated out.

    Rows are projected off those of the weights, rather than corrected in the Gram matrix, where
    narrow jumps would cost the difference its digits.
    """
    stddev = linear.field.weight_variance.sqrt()
    rows = linear.rows(linear.field.basis) * stddev
    eye = torch.eye(len(stddev), dtype=rows.dtype, device=rows.device)
    basis, _ = torch.linalg.qr(torch.cat([rows, eye]))
    rest = torch.cat([linear.lever, linear.target.unsqueeze(1)], 1)
    rest = torch.cat([rest, rest.new_zeros(len(stddev), rest.shape[1])])
    rest = rest - basis @ (basis.mT @ rest)
    own = torch.cat([linear.prior_lever, linear.prior_target.unsqueeze(1)], 1)
    _, upper = torch.linalg.qr(torch.cat([rest, own]))
    num = linear.lever.shape[1]
    eye = torch.eye(num, dtype=rows.dtype, device=rows.device)
    root = torch.linalg.solve_triangular(upper[:num, :num], eye, upper=True)
    return root @ upper[:num, num], root
