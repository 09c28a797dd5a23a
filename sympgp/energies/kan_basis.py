"""Hamiltonians that are Kolmogorov-Arnold networks, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import GradientMap, Linearized
from sympgp.energies.differentiated import first_matrix, given
from sympgp.energies.kan_function import KANFunction
from sympgp.energies.kan_layers import Pass, grouped
from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.trainable import TrainableBasis


@dataclass(frozen=True, eq=False)
class KANBasis(NonlinearBasis, TrainableBasis):
    """``H(z; w)`` a :class:`KANFunction` of the scaled state, all derivatives written.

    Attributes:
        function: layers of splines.
        prior_variance: (P,).
        periods: the coordinates that are angles, each with its period in user units.
        sparsity: what edges cost in a fit, see :func:`~sympgp.energies.kan_penalty.edge_penalty`.
        states: (R, D) at which their size is taken; None where they cost nothing.
    """

    function: KANFunction
    prior_variance: Float[Tensor, " weights"]
    periods: tuple[tuple[int, float], ...] = ()
    sparsity: float = 0.0
    states: Float[Tensor, "states dim"] | None = None

    @property
    def angles(self) -> dict[int, float]:
        """The coordinates that are angles, and their periods in user units."""
        return dict(self.periods)

    @property
    def num_weights(self) -> int:  # type: ignore[override]
        """P."""
        return self.function.num_weights

    @property
    def last_layer(self) -> slice:  # type: ignore[override]
        """The weights in which H is linear."""
        return self.function.last_layer

    @property
    def separable(self) -> bool:  # type: ignore[override]
        """Without hidden nodes H is a sum of functions of one entry each."""
        return len(self.function.widths) == 2

    def initial(self, num: int, generator: torch.Generator) -> Float[Tensor, "num weights"]:
        """Base functions as the unit prior has them, splines smaller."""
        return self.function.initial(num, generator).to(self.prior_variance)

    def dropout(
        self, rate: float, num: int, generator: torch.Generator
    ) -> Float[Tensor, "num weights"]:
        """Factors zero for the edges out of a dropped node, see :class:`TrainableBasis`."""
        return self.function.dropout(rate, num, generator).to(self.prior_variance)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z; w)``."""
        return self.function(z, w)

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """``z -> H(z; w)`` with the splines' coefficients prepared."""
        coefficients = self.function.coefficients(w if w.dim() > 1 else w.unsqueeze(0))

        def energy(z: Tensor) -> Tensor:
            x = grouped(z, len(coefficients[0]))
            return self.function.traced(x, coefficients)[1].reshape(z.shape[:-1])

        return energy

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> KANGradient:
        """One forward and one reverse pass."""
        own = w if w.dim() > 1 else w.unsqueeze(0)
        return KANGradient(self.function, self.function.coefficients(own), None)

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw``."""
        return self.function.features(z, given(w))

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d grad H / dw``."""
        return self.function.feature_gradient(z, given(w))

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d grad H(z_s) / dw``, pulled back for all rows at once."""
        return self.function.pulled(z, weights.movedim(1, -1), given(w))

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H for one weight vector."""
        return self.function.hessian(z, w)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Slope, Hessian and pull-back from one pass."""
        made = self.function.passed(z, w, 2)

        def pull_back(pull: Tensor) -> Tensor:
            return self.function.transposed(made.pulled(pull.unsqueeze(-1))).squeeze(1)

        return Linearized(made.gradient, made.hessian(), pull_back)

    def penalty(
        self,
        z: Float[Tensor, "states dim"],
        w: Float[Tensor, "*draws weights"],
        entropy: float = 1.0,
    ) -> Float[Tensor, "*draws"]:
        """What many and large edges cost, see :meth:`KANFunction.penalty`."""
        return self.function.penalty(z, w, entropy)

    def refined(
        self,
        grid: int,
        w: Float[Tensor, "*draws weights"],
        z: Float[Tensor, "states dim"] | None = None,
        *,
        adapt: bool = False,
    ) -> tuple[KANBasis, Tensor]:
        """The same functions on another grid, see :meth:`KANFunction.refined`."""
        function, weights = self.function.refined(grid, w, z, adapt=adapt)
        return self._with(function), weights

    def pruned(
        self, z: Float[Tensor, "states dim"], w: Float[Tensor, " weights"], threshold: float = 0.01
    ) -> tuple[KANBasis, Tensor]:
        """Without edges and nodes that matter little, see :meth:`KANFunction.pruned`."""
        function, weights = self.function.pruned(z, w, threshold)
        return self._with(function), weights

    def _with(self, function: KANFunction) -> KANBasis:
        """With the scales of hidden edges and of the last ones as they are."""
        own = self.prior_variance / self.function.unit_variance
        last = function.last_layer
        scales = own[:1].expand(function.num_weights).clone()
        scales[last] = own[-1]
        return replace(self, function=function, prior_variance=scales * function.unit_variance)


class KANGradient(GradientMap):
    """``z -> K grad H(z; w)`` of a :class:`KANBasis`, draws on a leading axis."""

    def __init__(
        self,
        function: KANFunction,
        coefficients: list[Tensor],
        matrix: Float[Tensor, "*own dim dim"] | None,
    ) -> None:
        self.function, self.coefficients, self.matrix = function, coefficients, matrix

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (..., D) states, or (S, B, D) for S draws."""
        x = grouped(z, len(self.coefficients[0]))
        slope = self._pass(x).gradient.reshape(z.shape)
        return slope if self.matrix is None else slope @ self.matrix.mT

    def _pass(self, x: Tensor) -> Pass:
        return Pass(self.function.expand, self.function.embedding, self.coefficients, x, 1)

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> KANGradient:
        """Multiply from the left."""
        whole = matrix if self.matrix is None else matrix @ self.matrix
        return KANGradient(self.function, self.coefficients, whole)

    def first(self) -> KANGradient:
        """The first of several draws alone, still with a draw axis."""
        own = [part[:1] for part in self.coefficients]
        return KANGradient(self.function, own, first_matrix(self.matrix))
