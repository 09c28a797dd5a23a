"""Hamiltonians that are multilayer perceptrons, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import GradientMap, Linearized
from sympgp.energies.differentiated import first_matrix, given
from sympgp.energies.network_passes import ACTIVATIONS, Activation, Along, Layers, Passes, times
from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.trainable import TrainableBasis

AT_ONCE = 100_000
"""Hidden units that are evaluated at a time: what stays in a processor's cache is faster."""


@dataclass(eq=False)
class NetworkBasis(NonlinearBasis, TrainableBasis):
    """``H(z; w) = v . a_L``, ``a_l = s(W_l a_(l-1) + b_l)``, ``a_0`` the embedded state.

    Angles enter as ``cos(k z_i)`` and ``sin(k z_i)``, so that H is exactly periodic, all other
    entries as they are. Weights are ``[W_1 (row by row), b_1, W_2, b_2, ..., v]``; a constant of H
    shows nowhere and is left out.

    Attributes:
        dim: D.
        hidden: widths of the layers.
        activation: "tanh", "softplus", "silu" or "sin".
        prior_variance: (P,).
        periodic: the entries that are angles.
        waves: their k, ``2 pi`` over the scaled period.
        periods: the coordinates that are angles, each with its period in user units.
    """

    dim: int
    hidden: tuple[int, ...]
    activation: str
    prior_variance: Float[Tensor, " weights"]
    periodic: tuple[int, ...]
    waves: Float[Tensor, " angles"]
    periods: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        self.widths = (self.dim + len(self.periodic), *self.hidden)
        self.num_weights = num_weights(self.widths)
        self.last_layer = slice(self.num_weights - self.hidden[-1], self.num_weights)
        self._plain = [i for i in range(self.dim) if i not in self.periodic]
        order = [*self._plain, *self.periodic]
        self._back = [order.index(i) for i in range(self.dim)]

    @property
    def angles(self) -> dict[int, float]:
        """The coordinates that are angles, and their periods in user units."""
        return dict(self.periods)

    def embedded(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch wide"]:
        """``a_0``."""
        if not self.periodic:
            return z
        phase = self.waves * z[..., list(self.periodic)]
        return torch.cat([z[..., self._plain], phase.cos(), phase.sin()], -1)

    def turned(self, z: Float[Tensor, "*batch dim"]) -> tuple[Tensor, Tensor]:
        """Derivatives of the embedded angles: ``-k sin`` and ``k cos``, (..., angles) each."""
        phase = self.waves * z[..., list(self.periodic)]
        return -self.waves * phase.sin(), self.waves * phase.cos()

    def to_states(
        self, slope: Float[Tensor, "*batch wide"], z: Float[Tensor, "*states dim"]
    ) -> Float[Tensor, "*batch dim"]:
        """``(da_0 / dz)' slope``."""
        if not self.periodic:
            return slope
        by_cosine, by_sine = self.turned(z)
        plain, cosine, sine = slope.split([len(self._plain), *[len(self.periodic)] * 2], -1)
        return torch.cat([plain, by_cosine * cosine + by_sine * sine], -1)[..., self._back]

    def from_states(
        self, change: Float[Tensor, "*batch dim"], z: Float[Tensor, "*states dim"]
    ) -> Float[Tensor, "*batch wide"]:
        """``(da_0 / dz) change``."""
        if not self.periodic:
            return change
        by_cosine, by_sine = self.turned(z)
        own = change[..., list(self.periodic)]
        return torch.cat([change[..., self._plain], by_cosine * own, by_sine * own], -1)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z; w)``."""
        return self.bound(w)(z)

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """``z -> H(z; w)`` with the weights unpacked once."""
        layers, activation = Layers.unpacked(w, self.widths), ACTIVATIONS[self.activation]

        def energy(z: Tensor) -> Tensor:
            a = self.embedded(z)
            for level in range(len(self.hidden)):
                a = activation.value(layers.ahead(level, a))
            return (a @ layers.output.unsqueeze(-1)).squeeze(-1)

        return energy

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> NetworkGradient:
        """One forward and one reverse pass."""
        layers = Layers.unpacked(w, self.widths)
        return NetworkGradient(self, layers, ACTIVATIONS[self.activation], None)

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw``: ``r_l a_(l-1)'``, ``r_l`` and ``a_L``."""
        layers = Layers.unpacked(given(w), self.widths)
        activation = ACTIVATIONS[self.activation]
        passes = Passes(layers, activation, self.embedded(z).unsqueeze(0))
        parts = []
        for r, a in zip(passes.reverse, passes.below, strict=True):
            parts += [(r.unsqueeze(-1) * a.unsqueeze(-2)).flatten(-2), r]
        top = activation.value(layers.ahead(len(self.hidden) - 1, passes.below[-1]))
        return torch.cat([*parts, top], -1).squeeze(0)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d grad H / dw``: a tangent along every entry."""
        dim = z.shape[-1]
        states = z.reshape(-1, 1, dim)
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).unsqueeze(1)
        found = self._along(states, given(w), seeds.expand(len(states), dim, 1, dim))
        return found.by_weights().reshape(*z.shape, -1)

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d grad H(z_s) / dw``: one tangent a row, with shared passes."""
        return self._along(z, given(w), weights).by_weights()

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Slope, Hessian by a tangent along every entry, and one more tangent to pull back."""
        passes = self._passes(z, w)
        dim = z.shape[-1]
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).unsqueeze(1)
        hessian = self._curvature(passes, z, seeds.expand(len(z), dim, *z.shape[1:]))

        def pull_back(pull: Tensor) -> Tensor:
            onto = self.from_states(pull, z).unsqueeze(1)
            return passes.along(onto).by_weights().squeeze(1)

        return Linearized(self.to_states(passes.slope, z), hessian.movedim(1, -2), pull_back)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H for one weight vector."""
        return self.linearized(z.unsqueeze(0), w.unsqueeze(0)).hessian.squeeze(0)

    def initial(self, num: int, generator: torch.Generator) -> Float[Tensor, "num weights"]:
        """``N(0, 1 / fan-in)`` for all weights and biases, so that no layer starts saturated."""
        like = self.prior_variance
        white = torch.randn(num, self.num_weights, generator=generator, dtype=torch.float64)
        return white.to(like) * fan_in(self.widths, like).rsqrt()

    def dropout(
        self, rate: float, num: int, generator: torch.Generator
    ) -> Float[Tensor, "num weights"]:
        """Factors zero for what leaves a dropped unit, see :class:`TrainableBasis`."""
        like, parts = self.prior_variance, [self.prior_variance.new_ones(num, self.widths[0])]
        for width in self.hidden:
            uniform = torch.rand(num, width, generator=generator, dtype=torch.float64)
            parts.append((uniform >= rate).to(like) / (1.0 - rate))
        whole = []
        for out, row in zip(self.hidden, parts[:-1], strict=True):
            whole += [row.repeat(1, out), like.new_ones(num, out)]
        return torch.cat([*whole, parts[-1]], 1)

    def _passes(self, z: Tensor, w: Tensor) -> Passes:
        """Of states (G, N, D)."""
        layers = Layers.unpacked(w, self.widths)
        return Passes(layers, ACTIVATIONS[self.activation], self.embedded(z))

    def _along(self, z: Tensor, w: Tensor, change: Tensor) -> Along:
        """Along changes (G, T, N, D) of the states (G, N, D)."""
        onto = self.from_states(change, z.unsqueeze(1))
        return self._passes(z, w).along(onto)

    def _curvature(self, passes: Passes, z: Tensor, change: Tensor) -> Tensor:
        """The Hessian times changes (G, T, N, D)."""
        states = z.unsqueeze(1)
        bent = passes.along(self.from_states(change, states)).by_input()
        found = self.to_states(bent, states)
        if not self.periodic:
            return found
        # The embedding bends too: its second derivatives are -k^2 cos and -k^2 sin.
        phase = self.waves * z[..., list(self.periodic)]
        _, cosine, sine = passes.slope.split([len(self._plain), *[len(self.periodic)] * 2], -1)
        own = -(self.waves**2) * (phase.cos() * cosine + phase.sin() * sine)
        zero = torch.zeros_like(z[..., self._plain])
        curve = torch.cat([zero, own], -1)[..., self._back]
        return found + curve.unsqueeze(1) * change


class NetworkGradient(GradientMap):
    """``z -> K grad H(z; w)`` of a :class:`NetworkBasis`, draws on a leading axis."""

    def __init__(
        self,
        basis: NetworkBasis,
        layers: Layers,
        activation: Activation,
        matrix: Float[Tensor, "*own dim dim"] | None,
    ) -> None:
        self.basis, self.layers, self.activation, self.matrix = basis, layers, activation, matrix
        # Without angles the matrix goes into the last product of the reverse pass.
        self._entry, self._right = layers.matrices[0], None if matrix is None else matrix.mT
        if self._right is not None and not basis.periodic:
            self._entry, self._right = self._entry @ self._right, None

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (..., D) states, or (S, B, D) for S draws."""
        followed = torch.is_grad_enabled() and (z.requires_grad or self._entry.requires_grad)
        numbers = z[..., 0].numel() * max(self.basis.hidden)
        if followed or numbers <= AT_ONCE:
            return self._evaluated(z)
        size = max(1, z.shape[-2] * AT_ONCE // numbers)
        return torch.cat([self._evaluated(part) for part in z.split(size, -2)], -2)

    def _evaluated(self, z: Tensor) -> Tensor:
        layers, first = self.layers, []
        a = self.basis.embedded(z)
        for level in range(len(layers.matrices)):
            a, d = self.activation.pair(layers.ahead(level, a))
            first.append(d)
        reverse = layers.row() * first[-1]
        for level in range(len(first) - 1, 0, -1):
            reverse = times(reverse, layers.matrices[level]) * first[level - 1]
        slope = self.basis.to_states(times(reverse, self._entry), z)
        return slope if self._right is None else slope @ self._right

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> NetworkGradient:
        """Multiply from the left."""
        whole = matrix if self.matrix is None else matrix @ self.matrix
        return NetworkGradient(self.basis, self.layers, self.activation, whole)

    def first(self) -> NetworkGradient:
        """The first of several draws alone, still with a draw axis."""
        layers = self.layers
        if layers.output.dim() > 1:
            layers = Layers(
                tuple(m[:1] for m in layers.matrices),
                tuple(b[:1] for b in layers.biases),
                layers.output[:1],
            )
        return NetworkGradient(self.basis, layers, self.activation, first_matrix(self.matrix))


def num_weights(widths: tuple[int, ...]) -> int:
    """P."""
    return sum((wide + 1) * out for wide, out in pairwise(widths)) + widths[-1]


def fan_in(widths: tuple[int, ...], like: Tensor) -> Float[Tensor, " weights"]:
    """Of every weight and bias, how many numbers its unit adds up beside the bias."""
    counts = [like.new_full(((wide + 1) * out,), wide) for wide, out in pairwise(widths)]
    return torch.cat([*counts, like.new_full((widths[-1],), widths[-1])])
