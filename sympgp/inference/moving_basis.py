"""Features whose hyperparameters are unknowns beside the weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis, Energy, GradientMap, Linearized, LogNormal
from sympgp.inference.evidence import pack, unpack


class MovingBasis(Basis):
    """``H(z) = phi(z; h) . w`` with parameters ``(w, log h)``, one draw at a time.

    Paths through its field are differentiable in the hyperparameters too. It is not linear in its
    parameters, so there are no features, and its prior is not that of ``prior_variance``.
    """

    reducible = False

    def __init__(self, energy: Energy, priors: dict[str, LogNormal]) -> None:
        self.energy, self.priors = energy, priors
        first = {name: prior.median for name, prior in priors.items()}
        basis, log = energy.basis(first), pack(priors, first)
        self.num_features, self.context = basis.num_weights, basis.context
        self.num_weights = basis.num_weights + len(log)
        self.prior_variance = torch.cat([basis.prior_variance, torch.ones_like(log)])

    def at(self, log: Float[Tensor, " hyper"]) -> Basis:
        """The features at these logarithms of the hyperparameters."""
        return self.energy.basis(unpack(self.priors, log))

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """There are none."""
        raise TypeError("features depend on hyperparameters that are unknown")

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """There are none."""
        raise TypeError("features depend on hyperparameters that are unknown")

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> GradientMap:
        """The gradient of H for one draw (P,) or (1, P)."""
        log = w.reshape(self.num_weights)[self.num_features :]
        return self.at(log).gradient_map(w[..., : self.num_features])

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H for one draw."""
        own, log = w[: self.num_features], w[self.num_features :]
        return self.at(log).hessian(z, own)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Derivatives of H for one draw, those by the logarithms through autograd."""
        own, log = w[:, : self.num_features], w[0, self.num_features :]
        known = self.at(log).linearized(z, own)

        def pull_back(pull: Tensor) -> Tensor:
            with torch.enable_grad():
                free = log.detach().requires_grad_(True)
                value = (pull * self.at(free).gradient_map(own)(z)).sum()
            (slope,) = torch.autograd.grad(value, free, materialize_grads=True)
            return torch.cat([known.pull_back(pull), slope.unsqueeze(0)], 1)

        return Linearized(known.slope, known.hessian, pull_back)
