"""What an energy offers: a prior over Hamiltonians, and functions of the state given weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Hyperparameters = dict[str, Tensor]


@dataclass(frozen=True)
class LogNormal:
    """Log-normal hyperprior: ``log v ~ N(log(median), log_stddev^2)``, element by element."""

    median: Float[Tensor, "*shape"]
    log_stddev: float


class Basis(ABC):
    """Hamiltonians ``H(z) = phi(z) . w`` that are linear in their weights, in scaled units.

    States ``z`` are (..., D), weights ``w`` (P,) or, one row a draw, (S, P) with states (S, B, D).
    """

    num_weights: int
    prior_variance: Float[Tensor, " weights"]

    @abstractmethod
    def features(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch weights"]:
        """``phi(z)``."""

    @abstractmethod
    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d phi(z) / dz``: column m is the gradient of feature m."""

    def weighted_gradient(
        self, z: Float[Tensor, "batch stages dim"], weights: Float[Tensor, "batch out stages dim"]
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d phi(z_s) / dz``: what an interval's stages add to its end.

        A basis that can do without the gradients of all stages at once overrides this.
        """
        batch, out = weights.shape[:2]
        gradients = self.feature_gradient(z)
        return weights.reshape(batch, out, -1) @ gradients.reshape(batch, -1, self.num_weights)

    @abstractmethod
    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> GradientMap:
        """The gradient of H for fixed weights, folded for fast repeated evaluation."""

    @abstractmethod
    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H for one weight vector."""

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """First and second derivatives of H for a batch of draws, and how they pull back.

        A basis that can share the work between them overrides this.
        """

        def pull_back(pull: Tensor) -> Tensor:
            with torch.enable_grad():
                own = w.detach().requires_grad_(True)
                value = (pull * self.gradient_map(own)(z)).sum()
            return torch.autograd.grad(value, own, materialize_grads=True)[0]

        slope = self.gradient_map(w)(z)
        return Linearized(slope, torch.func.vmap(self.hessian)(z, w), pull_back)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z)``, up to a constant; a batch of draws takes states with the same leading size."""
        return (self.features(z) @ w.unsqueeze(-1)).squeeze(-1)


class Linearized(NamedTuple):
    """Derivatives of the energies of several draws, each at its own states.

    Attributes:
        slope: (S, B, D) gradients of H.
        hessian: (S, B, D, D).
        pull_back: from ``v`` (S, B, D) to ``sum_b v_b . d(grad H)(z_b) / dw``, (S, P).
    """

    slope: Tensor
    hessian: Tensor
    pull_back: Callable[[Tensor], Tensor]


class GradientMap(ABC):
    """``z -> K grad H(z)`` for fixed weights and a fixed matrix ``K`` (the identity at first)."""

    @abstractmethod
    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at the states."""

    @abstractmethod
    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> GradientMap:
        """The map ``z -> matrix K grad H(z)``."""

    @abstractmethod
    def first(self) -> GradientMap:
        """The first of several draws alone, still with a draw axis."""


class Energy(ABC):
    """A family of Hamiltonians with a prior over weights and hyperparameters.

    All quantities are in scaled units. ``hyperparameters`` are positive tensors by name.
    """

    num_dof: int

    @abstractmethod
    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Hyperpriors for data whose channels have standard deviations ``spread``."""

    @abstractmethod
    def basis(self, hyperparameters: Hyperparameters) -> Basis:
        """The functions of the state for these hyperparameters (differentiable in them)."""

    @abstractmethod
    def redraw(self, seed: int) -> Energy:
        """The same prior with other fixed random draws, where there are any."""
