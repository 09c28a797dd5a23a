"""The log density that is sampled: that of the model, in whitened unknowns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.inference.evidence import log_prior
from sympgp.inference.moving_basis import MovingBasis
from sympgp.inference.whitening import Unknowns, Whitening
from sympgp.shooting.density import JointDensity


@dataclass(frozen=True)
class Target:
    """``log p(y, unknowns(xi)) + log |d unknowns / d xi|`` up to a constant.

    Attributes:
        density: of the model; its field is that of :class:`MovingBasis` where hyperparameters are
            unknown.
        whitening: the change of variables.
    """

    density: JointDensity
    whitening: Whitening

    @classmethod
    def of(cls, density: JointDensity, whitening: Whitening) -> Target:
        """For a density at fixed hyperparameters, which are set free if the whitening has them."""
        if whitening.hyper is None or whitening.energy is None:
            return cls(density, whitening)
        basis = MovingBasis(whitening.energy, whitening.hyper.priors)
        field = density.field.with_basis(basis)
        return cls(replace(density, field=field), whitening)

    def __call__(self, white: Float[Tensor, "draws unknowns"]) -> Float[Tensor, " draws"]:
        """Log densities on the CPU, where samplers work, differentiable."""
        unknowns = self.unknowns(white)
        if self.whitening.hyper is None:
            value = self.density.log_prob(unknowns.theta, unknowns.noise_std, unknowns.start)
        else:
            rows = zip(*unknowns, strict=True)
            value = torch.stack([self._moving(*(part[None] for part in row)) for row in rows])
        return (value + unknowns.log_volume).to(white)

    def unknowns(self, white: Float[Tensor, "draws unknowns"]) -> Unknowns:
        """What the positions stand for, on the device of the data."""
        return self.whitening(white.to(self.whitening.start))

    def _moving(
        self,
        theta: Tensor,
        noise_std: Tensor,
        start: Tensor,
        log_hyper: Tensor,
        log_volume: Tensor,
    ) -> Tensor:
        """One log density with the hyperparameters and their priors."""
        basis, hyper = self.density.field.basis, self.whitening.hyper
        if not isinstance(basis, MovingBasis) or hyper is None:
            raise RuntimeError("hyperparameters are not among the unknowns")
        num = basis.num_features
        whole = torch.cat([theta[:, :num], log_hyper, theta[:, num:]], 1)
        terms = self.density.terms(whole, noise_std, start)
        variance = basis.at(log_hyper[0]).prior_variance
        spread = (2.0 * math.pi * variance).log().sum()
        weights = -0.5 * ((theta[:, :num] ** 2 / variance).sum(1) + spread)
        hyperprior = log_prior(hyper.priors, log_hyper[0])
        extra = theta[:, num : len(theta[0]) - self.density.field.dissipation.num_parameters]
        if extra.shape[1]:  # of the inputs
            variance = self.density.field.weight_variance[-extra.shape[1] :]
            spread = (2.0 * math.pi * variance).log().sum()
            weights = weights - 0.5 * ((extra**2 / variance).sum(1) + spread)
        others = [value for name, value in terms.items() if name != "weights"]
        return (torch.stack([*others, weights]).sum(0) + hyperprior)[0]
