"""What moves a parameter's weight from trajectory to trajectory, with written derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

HALF = math.sqrt(0.5)


@dataclass(eq=False)
class CovariateNetwork:
    """A network ``g(x) = v . h_L(x)`` with ``h_l = tanh(A_l h_(l-1) + b_l)``, ``h_0 = x``.

    Entries of A ~ N(0, 1 / fan-in), b ~ N(0, 1), v ~ N(0, variance / fan-in). At v = 0, A = 0 and
    b = 0 nothing changes with any weight, so that no search could leave it: A and b are
    ``(drawn + weights) / sqrt(2)`` with fixed draws from their own prior, which over the draws
    leaves the prior as it is.

    A Gaussian over the weights is one over functions only as far as these are linear in them: its
    draws bend the network out of all proportion otherwise. With ``centre`` set the network is its
    tangent there, ``g(x; w0) + dg/dw (w - w0)``.

    Source: Immer, Korzepa and Bauer, *Improving predictions of Bayesian neural nets via local
    linearization*, AISTATS 2021, for the tangent.

    Attributes:
        hidden: units of each layer; none for a linear function.
        drawn: fixed draws, one for each entry of A and b.
        variance: of the output.
        num_covariates: C.
        centre: (P,) w0; None for the network itself.
    """

    hidden: tuple[int, ...]
    drawn: Float[Tensor, " inner"]
    variance: Float[Tensor, ""]
    num_covariates: int
    centre: Float[Tensor, " weights"] | None = None

    @classmethod
    def of(
        cls, hidden: tuple[int, ...], num_covariates: int, variance: Float[Tensor, ""], seed: int
    ) -> CovariateNetwork:
        """With draws of this seed."""
        one = variance.detach().new_ones(())
        network = cls(hidden, one.new_zeros(0), one, num_covariates)
        deviations = network._inner_variance().sqrt()
        generator = torch.Generator().manual_seed(seed)
        white = torch.randn(len(deviations), generator=generator, dtype=torch.float64)
        return cls(hidden, white.to(one) * deviations, variance, num_covariates)

    def _layers(self) -> list[tuple[int, int]]:
        """Units and fan-in of each hidden layer."""
        sizes = [self.num_covariates, *self.hidden]
        return list(zip(sizes[1:], sizes[:-1], strict=True))

    def _inner_variance(self) -> Tensor:
        parts = []
        for units, inside in self._layers():
            parts.append(self.drawn.new_full((units * inside,), 1.0 / inside))
            parts.append(self.drawn.new_ones(units))
        return torch.cat(parts) if parts else self.drawn.new_zeros(0)

    @property
    def last(self) -> int:
        """Units of the last layer."""
        return self.hidden[-1] if self.hidden else self.num_covariates

    @property
    def num_weights(self) -> int:
        """Number of weights, those of the hidden layers first."""
        return sum(units * (inside + 1) for units, inside in self._layers()) + self.last

    @property
    def prior_variance(self) -> Float[Tensor, " weights"]:
        """Of the weights."""
        return torch.cat([self._inner_variance(), (self.variance / self.last).expand(self.last)])

    def _run(self, w: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Values of all layers, the matrices A, and v; of several draws with a draw axis."""
        inner = HALF * (self.drawn + w[..., : len(self.drawn)])
        values, matrices, begin = [x], [], 0
        for units, inside in self._layers():
            middle, end = begin + units * inside, begin + units * (inside + 1)
            matrix = inner[..., begin:middle].unflatten(-1, (units, inside))
            shift = inner[..., middle:end]
            shift = shift.unsqueeze(-2) if w.dim() > 1 else shift
            values.append((values[-1] @ matrix.mT + shift).tanh())
            matrices.append(matrix)
            begin = end
        v = w[..., begin:]
        return values, matrices, v.unsqueeze(-2) if w.dim() > 1 else v

    def value(
        self, w: Float[Tensor, "*draws weights"], x: Float[Tensor, "*batch covariates"]
    ) -> Float[Tensor, "*batch"]:
        """``g(x)``, of several draws (S, P) at (S, B, C)."""
        at = w if self.centre is None else self.centre
        values, _, v = self._run(at, x)
        found = (values[-1] * v).sum(-1)
        if self.centre is None:
            return found
        step = (w - self.centre).unsqueeze(-1)
        return found + (self.slope(self.centre, x) @ step).squeeze(-1)

    def slope(
        self, w: Float[Tensor, "*draws weights"], x: Float[Tensor, "*batch covariates"]
    ) -> Float[Tensor, "*batch weights"]:
        """``dg/dw``, by the chain rule from the output back."""
        values, matrices, v = self._run(w if self.centre is None else self.centre, x)
        back, parts = v.expand_as(values[-1]), [values[-1]]
        for layer in reversed(range(len(matrices))):
            own = HALF * back * (1.0 - values[layer + 1] ** 2)
            by_matrix = (own.unsqueeze(-1) * values[layer].unsqueeze(-2)).flatten(-2)
            parts[:0] = [by_matrix, own]
            back = (own / HALF) @ matrices[layer]
        return torch.cat(parts, -1)


@dataclass(eq=False)
class ParameterEffect:
    """How one parameter's weight differs by trajectory: ``delta_i + g(x_i)``.

    Attributes:
        parameter: its place among the formula's parameters.
        deviations: number of deviations ``delta ~ N(0, variance)``, one for each of N trajectories,
            one for a new one, and one for each that joined later; zero where trajectories do not
            deviate.
        variance: of the deviations.
        network: g; None where there is none.
    """

    parameter: int
    deviations: int
    variance: Float[Tensor, ""]
    network: CovariateNetwork | None

    @property
    def num_weights(self) -> int:
        """Number of weights: deviations, then those of the network."""
        return self.deviations + (0 if self.network is None else self.network.num_weights)

    @property
    def prior_variance(self) -> Float[Tensor, " weights"]:
        """Of the weights."""
        own = self.variance.expand(self.deviations)
        return own if self.network is None else torch.cat([own, self.network.prior_variance])

    def tangent(self, w: Float[Tensor, " weights"]) -> ParameterEffect:
        """The same with its network linear about these weights."""
        if self.network is None:
            return self
        return replace(self, network=replace(self.network, centre=w[self.deviations :]))

    def value(
        self,
        w: Float[Tensor, "*draws weights"],
        number: Int[Tensor, "*batch"],
        x: Float[Tensor, "*batch covariates"],
    ) -> Float[Tensor, "*batch"]:
        """What is added to the parameter's weight; of draws (S, P) for numbers (S, B)."""
        found = x.new_zeros(number.shape)
        if self.deviations:
            delta = torch.nn.functional.pad(w[..., : self.deviations], (1, 0))
            found = found + (delta[number] if w.dim() == 1 else delta.gather(1, number))
        if self.network is not None:
            found = found + self.network.value(w[..., self.deviations :], x)
        return found

    def slope(
        self,
        w: Float[Tensor, "*draws weights"],
        number: Int[Tensor, "*batch"],
        x: Float[Tensor, "*batch covariates"],
    ) -> Float[Tensor, "*batch weights"]:
        """Its derivative by the weights."""
        parts = []
        if self.deviations:
            places = torch.arange(1, self.deviations + 1, device=number.device)
            parts.append((number.unsqueeze(-1) == places).to(x))
        if self.network is not None:
            parts.append(self.network.slope(w[..., self.deviations :], x))
        return torch.cat(parts, -1)
