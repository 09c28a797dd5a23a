"""Linear Gaussian models with many weights: mean, draws and evidence in the smaller space.

    target = rows theta + lever s + e,   e ~ N(0, 1),   theta ~ N(0, diag(stddev^2)),

where ``s`` (window states) has its priors among the rows. The rows are projected off those of
``s``, which are then gone: ``s`` follows from theta by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.posterior.component import normal


@dataclass(frozen=True)
class LinearGaussian:
    """See the module.

    Attributes:
        rows: (R, P) of the parameters, divided by the noise.
        lever: (R, L) of the window states.
        target: (R,).
        stddev: (P,) prior standard deviations.
    """

    rows: Float[Tensor, "rows params"]
    lever: Float[Tensor, "rows local"]
    target: Float[Tensor, " rows"]
    stddev: Float[Tensor, " params"]

    @cached_property
    def _off(self) -> tuple[Tensor, Tensor, Tensor]:
        """An orthonormal basis of the lever, and rows and target projected off it."""
        basis, _ = torch.linalg.qr(self.lever)
        whole = torch.cat([self.rows, self.target.unsqueeze(1)], 1)
        whole = whole - basis @ (basis.mT @ whole)
        return basis, whole[:, :-1], whole[:, -1]

    @cached_property
    def _white(self) -> Float[Tensor, "rows params"]:
        return self._off[1] * self.stddev

    @property
    def wide(self) -> bool:
        """Whether there are fewer rows than parameters."""
        return self.rows.shape[0] < self.rows.shape[1]

    @cached_property
    def factor(self) -> Tensor:
        """Lower Cholesky factor of ``1 + A A'`` or ``1 + A' A``, with whitened rows A."""
        return _factor(self._white, self.wide)

    def mean(self) -> Float[Tensor, " params"]:
        """Posterior mean of theta."""
        return self._posterior_mean(self._off[2].unsqueeze(1)).squeeze(1)

    def _posterior_mean(self, target: Float[Tensor, "rows draws"]) -> Float[Tensor, "params draws"]:
        if self.wide:
            white = self._white.mT @ torch.cholesky_solve(target, self.factor)
        else:
            white = torch.cholesky_solve(self._white.mT @ target, self.factor)
        return self.stddev.unsqueeze(1) * white

    def states(self, theta: Float[Tensor, "*draws params"]) -> Float[Tensor, "*draws local"]:
        """The mean of ``s`` given theta, or each of several."""
        rest = self.target - theta @ self.rows.mT
        found = torch.linalg.lstsq(self.lever, rest.reshape(-1, len(self.target)).mT).solution
        return found.mT.reshape(*theta.shape[:-1], self.lever.shape[1])

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "draws params"]:
        """Draws of theta: of the prior, moved by what perturbed data say of them (Matheron).

        Exact, and as cheap as the mean for one more right-hand side each.
        """
        count, size = self.rows.shape
        white = normal((num, size), self.stddev, generator)
        noise = normal((num, count), self.stddev, generator)
        prior = white * self.stddev
        off = self._off[2] - prior @ self._off[1].mT - noise
        return prior + self._posterior_mean(off.mT).mT

    def variance(self) -> Float[Tensor, " params"]:
        """Posterior variances of the entries of theta."""
        if self.wide:
            solved = torch.linalg.solve_triangular(self.factor, self._white, upper=False)
            share = 1.0 - solved.square().sum(0)
        else:
            eye = torch.eye(len(self.stddev)).to(self.stddev)
            share = torch.linalg.solve_triangular(self.factor, eye, upper=False).square().sum(0)
        return self.stddev.square() * share

    def covariance(self, column: int) -> Float[Tensor, " params"]:
        """One column of the posterior covariance of theta."""
        unit = torch.zeros_like(self.stddev)
        unit[column] = self.stddev[column]
        own = unit.unsqueeze(1)
        if self.wide:
            solved = torch.cholesky_solve(self._white @ own, self.factor)
            white = own - self._white.mT @ solved
        else:
            white = torch.cholesky_solve(own, self.factor)
        return self.stddev * white.squeeze(1)

    def used(self) -> Float[Tensor, " rows"]:
        """How much of each row the fit uses up: the diagonal of its hat matrix."""
        if self.wide:  # A (1 + A'A)^-1 A' = 1 - (1 + A A')^-1
            eye = torch.eye(len(self.factor)).to(self.factor)
            inverse = torch.linalg.solve_triangular(self.factor, eye, upper=False)
            own = 1.0 - inverse.square().sum(0)
        else:
            own = torch.linalg.solve_triangular(self.factor, self._white.mT, upper=False)
            own = own.square().sum(0)
        return own + self._off[0].square().sum(1)

    def log_evidence(self, variance: Float[Tensor, " params"]) -> Float[Tensor, ""]:
        """Of prior variances, up to a constant and differentiable in them."""
        _, rows, target = self._off
        white = rows * variance.sqrt()
        factor = _factor(white, self.wide)
        right = (target if self.wide else white.mT @ target).unsqueeze(1)
        solved = torch.linalg.solve_triangular(factor, right, upper=False).square().sum()
        quadratic = solved if self.wide else target.square().sum() - solved
        return -0.5 * quadratic - factor.diagonal().log().sum()

    def thinned(self, most: int) -> LinearGaussian:
        """At most so many rows, evenly chosen, with the states gone."""
        count = len(self.target)
        if count <= most:
            return self
        index = torch.linspace(0, count - 1, most).round().long().to(self.target.device)
        _, rows, target = self._off
        return LinearGaussian(rows[index], self.lever[index, :0], target[index], self.stddev)


def _factor(white: Float[Tensor, "rows params"], wide: bool) -> Tensor:
    gram = white @ white.mT if wide else white.mT @ white
    return torch.linalg.cholesky(gram + torch.eye(len(gram)).to(gram))
