"""All unknowns of a fit as one vector of any real numbers, for engines that move in all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sympgp.inference.networks.density import Density
from sympgp.inference.networks.descent import Unknowns
from sympgp.inference.networks.linear_gaussian import LinearGaussian
from sympgp.inference.networks.linearisation import Point, linear_about
from sympgp.inference.networks.polish import affordable_part

BEND = 0.1
"""Friction that may not be negative is ``s softplus(x / s)``, with ``s`` this share of its prior
deviation: itself where it is large against that."""
LEAST = 1e-3
"""Of ``s``, the smallest friction to begin with."""


@dataclass(frozen=True)
class Unconstrained:
    """Vectors ``x = [theta, log noise, window states]`` with friction bent to be positive.

    Attributes:
        density: of the data and the unknowns.
        shape: (W, D) of the window states; None for pairs.
    """

    density: Density
    shape: tuple[int, int] | None

    @classmethod
    def of(cls, density: Density, begin: Unknowns) -> Unconstrained:
        """For unknowns like these."""
        if begin.start is None:
            return cls(density, None)
        return cls(density, (begin.start.shape[1], begin.start.shape[2]))

    @property
    def unit(self) -> Float[Tensor, " k"]:
        """``s`` of each friction."""
        return BEND * self.density.field.dissipation.prior_stddev

    def packed(self, own: Unknowns) -> Float[Tensor, "rows unknowns"]:
        """The vectors of these unknowns."""
        theta = own.theta
        if self.density.field.dissipation.truncated:
            w, rho = self.density.field.split(theta)
            share = (rho / self.unit).clamp(min=LEAST)
            theta = torch.cat([w, self.unit * (share + torch.log(-torch.expm1(-share)))], 1)
        parts = [theta, own.log_noise]
        return torch.cat(parts if own.start is None else [*parts, own.start.flatten(1)], 1)

    def unpacked(
        self, x: Float[Tensor, "rows unknowns"]
    ) -> tuple[Unknowns, Float[Tensor, " rows"]]:
        """The unknowns, and the log volume of friction by ``x``."""
        field, num = self.density.field, self.density.field.num_parameters
        rest = 0 if self.shape is None else self.shape[0] * self.shape[1]
        theta, log_noise, start = x.split([num, x.shape[1] - num - rest, rest], 1)
        volume = torch.zeros_like(x[:, 0])
        if field.dissipation.truncated:
            w, bent = field.split(theta)
            rho = self.unit * functional.softplus(bent / self.unit)
            theta = torch.cat([w, rho], 1)
            volume = functional.logsigmoid(bent / self.unit).sum(1)
        states = None if self.shape is None else start.unflatten(1, self.shape)
        return Unknowns(theta, log_noise, states), volume

    def log_prob(
        self, x: Float[Tensor, "rows unknowns"], chosen: Int[Tensor, " chosen"] | None = None
    ) -> Float[Tensor, " rows"]:
        """The joint log density of each vector, minus infinity where the numbers fail."""
        own, volume = self.unpacked(x)
        noise_std = own.noise_std(self.density.noise)
        terms = self.density.terms(own.theta, noise_std, own.start, chosen)
        value = torch.stack(list(terms.values())).sum(0) + volume
        return value.masked_fill(value.isnan(), -torch.inf)

    def linear(self, x: Float[Tensor, " unknowns"]) -> LinearGaussian:
        """The model that is linear about a vector; without edges whose cost is too large for it."""
        own, _ = self.unpacked(x.unsqueeze(0))
        start = None if own.start is None else own.start[0]
        noise_std = self.density.noise.levels(own.log_noise)[0]
        return linear_about(affordable_part(self.density), Point(own.theta[0], noise_std, start))

    def precision(self, x: Float[Tensor, " unknowns"]) -> Float[Tensor, "unknowns unknowns"]:
        """Gauss-Newton precision about a vector; of the noise by itself."""
        linear = self.linear(x)
        field, groups = self.density.field, self._levels(x)
        rows = torch.cat([linear.rows * self._slope(x), linear.lever], 1)
        gram = rows.mT @ rows
        num = field.num_parameters
        gram[:num, :num] += torch.diag(field.prior_precision())
        wide = torch.block_diag(gram[:num, :num], torch.diag(groups), gram[num:, num:])
        last = num + len(groups)
        wide[:num, last:], wide[last:, :num] = gram[:num, num:], gram[num:, :num]
        return wide

    def curvature(self, x: Float[Tensor, " unknowns"]) -> Float[Tensor, " unknowns"]:
        """The diagonal of ``precision``, at the cost of the rows alone."""
        linear = self.linear(x)
        field = self.density.field
        rows = (linear.rows * self._slope(x)).square().sum(0) + field.prior_precision()
        return torch.cat([rows, self._levels(x), linear.lever.square().sum(0)])

    def _slope(self, x: Tensor) -> Float[Tensor, " params"]:
        """Derivative of theta by x."""
        field, num = self.density.field, self.density.field.num_parameters
        slope = torch.ones_like(x[:num])
        if field.dissipation.truncated:
            slope[field.num_weights :] = (x[field.num_weights : num] / self.unit).sigmoid()
        return slope

    def _levels(self, x: Tensor) -> Float[Tensor, " groups"]:
        """Precision of the logarithm of each noise level, twice its observations."""
        own, _ = self.unpacked(x.unsqueeze(0))
        free = own.log_noise.shape[1]
        if not free:
            return x.new_zeros(0)
        with torch.enable_grad():
            log = own.log_noise.detach().requires_grad_(True)
            levels = self.density.noise.levels(log)[0].log()
            total = (levels * self.density.counts).sum()
            return 2.0 * torch.autograd.grad(total, log)[0][0] + 1.0
