"""Regression of rates on states: what a search for hyperparameters, noise and friction asks of one.

Given hyperparameters, noise and friction, ``dz/ds = (J - R) grad H(z) + noise`` is a linear
Gaussian model, in the weights of features or in a Gaussian process.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import ScaledDissipation
from sympgp.energies import Hyperparameters, LogNormal
from sympgp.inference.pairs import Pairs
from sympgp.posterior import Component


@dataclass(frozen=True)
class NoiseFit:
    """The noise that a component is packaged with.

    Attributes:
        std: (D,).
        shape, rate: (D,) of its inverse-gamma posterior.
        group: (D,) shared levels.
    """

    std: Float[Tensor, " dim"]
    shape: Float[Tensor, " dim"]
    rate: Float[Tensor, " dim"]
    group: Tensor


class Solution(ABC):
    """A linear Gaussian posterior at fixed hyperparameters and noise.

    Attributes:
        rho: (K,) mode of the dissipation's parameters, before any cut at zero.
        squares: (D,) sums of squared residuals.
        degrees: (D,) observations that the fit uses up.
    """

    rho: Float[Tensor, " k"]
    squares: Float[Tensor, " dim"]
    degrees: Float[Tensor, " dim"]

    def rates(self, z: Float[Tensor, "points dim"]) -> Float[Tensor, "points dim"]:
        """The field at the mode, where states may have noise."""
        raise NotImplementedError(f"{type(self).__name__} takes states as exact")

    def slope(self, z: Float[Tensor, "points dim"]) -> Float[Tensor, "points dim dim"]:
        """Its derivatives by the state, likewise."""
        raise NotImplementedError(f"{type(self).__name__} takes states as exact")

    @abstractmethod
    def refined(self, noise_std: Float[Tensor, " dim"]) -> Solution:
        """One Gauss-Newton step from here under this noise."""

    @abstractmethod
    def component(self, noise: NoiseFit, hyperparameters: Hyperparameters) -> Component:
        """Package for the posterior."""


class Regression(ABC):
    """A prior over H with its hyperpriors, and the regression under it.

    Attributes:
        dissipation: scaled.
    """

    dissipation: ScaledDissipation

    @property
    def exact(self) -> bool:
        """Whether the evidence is exact, not that of a model linear about a solution."""
        return True

    def held_rho(self) -> Float[Tensor, " k"] | None:
        """Dissipation parameters that the evidence is for; None where any will do."""
        return None

    def started(
        self, pairs: Pairs, hyperparameters: Hyperparameters, noise_std: Float[Tensor, " dim"]
    ) -> Regression:
        """The regression with all that its evidence needs, before anything is known."""
        return self

    def about(self, solution: Solution) -> Regression:
        """The regression whose evidence is linear about this solution, if it is about any."""
        return self

    @abstractmethod
    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Of the hyperparameters."""

    @abstractmethod
    def redraw(self, seed: int) -> Regression:
        """The same prior with other random features, where there are any."""

    @abstractmethod
    def evidence(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> Float[Tensor, ""]:
        """Log marginal likelihood with H integrated out, differentiable in all but the pairs."""

    @abstractmethod
    def solve(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> Solution:
        """The posterior of H at this friction, the start of Gauss-Newton."""


def gaussian_log_density(quadratic: Tensor, logdet: Tensor, count: int) -> Float[Tensor, ""]:
    """``-(quadratic + logdet + count log 2 pi) / 2``."""
    return -0.5 * (quadratic + logdet + count * math.log(2.0 * math.pi))
