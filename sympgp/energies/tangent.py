"""Energies made linear in their weights about one set of them, the other way to vary a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies.base import Basis, Linearized
from sympgp.energies.differentiated import WeightedMap, followed
from sympgp.energies.lagrangian_basis import LagrangianBasis
from sympgp.energies.network_basis import NetworkBasis
from sympgp.energies.network_passes import ACTIVATIONS, Layers, times


@dataclass(frozen=True, eq=False)
class TangentBasis(Basis):
    """``H(z; w) = H(z; w_0) + (dH/dw)(z; w_0) . (w - w_0)`` of some or all weights of a basis.

    The Gaussian of a Laplace approximation with a Gauss-Newton matrix is exact for this model, not
    for the network itself, whose functions change faster than its linearisation says (Immer,
    Korzepa and Bauer, *Improving predictions of Bayesian neural nets via local linearization*,
    AISTATS 2021). Of the weights that H is linear in, as those of a network's last layer, both are
    the same. A draw is a Hamiltonian like any other.

    The weights are not deviations: their prior is that of the basis.

    Attributes:
        basis: of P weights.
        nominal: (P,) ``w_0``.
        chosen: (C,) the weights that vary; the others stay as they are.
    """

    basis: Basis
    nominal: Float[Tensor, " all"]
    chosen: Int[Tensor, " weights"]

    linear = False

    def __post_init__(self) -> None:
        own = {
            "num_weights": len(self.chosen),
            "prior_variance": self.basis.prior_variance[self.chosen],
            "separable": self.basis.separable,
            "has_energy": self.basis.has_energy,
            "canonical": self.basis.canonical,
            "lossless": self.basis.lossless,
            "reducible": self.basis.reducible,
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def centre(self) -> Float[Tensor, " weights"]:
        """The chosen entries of ``w_0``."""
        return self.nominal[self.chosen]

    @property
    def angles(self) -> dict[int, float]:
        """The coordinates that are angles, and their periods in user units."""
        return self.basis.angles

    def change(self, w: Float[Tensor, "*draws weights"]) -> Float[Tensor, "*draws all"]:
        """``w - w_0`` of all weights of the basis."""
        found = w.new_zeros(*w.shape[:-1], len(self.nominal))
        return found.index_copy(-1, self.chosen, w - self.centre)

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw`` at ``w_0``."""
        return self.basis.features(z, self.nominal)[..., self.chosen]

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d grad H / dw`` at ``w_0``."""
        return self.basis.feature_gradient(z, self.nominal)[..., self.chosen]

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d grad H(z_s) / dw`` at ``w_0``."""
        return self.basis.weighted_gradient(z, weights, self.nominal)[..., self.chosen]

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> TangentMap:
        """The gradient at ``w_0`` and its derivative along ``w - w_0``, in one pass."""
        return TangentMap(self, self.change(w), None)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H for one weight vector."""
        return self._derivatives(z.unsqueeze(0), w.unsqueeze(0))[1].squeeze(0)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Slope and Hessian of every draw; weights by the basis's own pull-back."""
        slope, hessian = self._derivatives(z, w)

        def pull_back(pull: Tensor) -> Tensor:
            return self.weighted_gradient(z, pull.unsqueeze(1)).squeeze(1)

        return Linearized(slope, hessian, pull_back)

    def _derivatives(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Slope (S, B, D) and Hessian (S, B, D, D)."""
        change, z = self.change(w), z.contiguous()
        plain = not torch._C._are_functorch_transforms_active() and not followed(z, w)
        # what is made in inference mode cannot be differentiated in reverse
        made = any(own.is_inference() for own in (z, change, self.nominal))
        recorded = not (made or torch.is_inference_mode_enabled())
        if plain and recorded and isinstance(self.basis, NetworkBasis):
            return _differentiated(self.basis, self.nominal, change, z)

        def known(at: Tensor) -> tuple[Tensor, Tensor]:
            found = self.basis.linearized(z, at)
            return found.slope, found.hessian

        own, moved = _pushed(known, (self.nominal.repeat(len(w), 1),), (change,))
        return own[0] + moved[0], own[1] + moved[1]

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z; w)``, up to a constant."""
        change = self.change(w)
        at = self.nominal.repeat(*change.shape[:-1], 1).reshape(change.shape)
        own, moved = _pushed(lambda x: self.basis.value(z, x), (at,), (change,))
        return own + moved

    def momenta(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dof"]:
        """``dL/dz_v`` of a Lagrangian's tangent.

        Raises:
            TypeError: the basis is no Lagrangian one.
        """
        inner = self.basis
        if not isinstance(inner, LagrangianBasis):
            raise TypeError(f"basis: expected a LagrangianBasis, got {type(inner).__name__}")
        change = self.change(w)
        at = self.nominal.repeat(*change.shape[:-1], 1).reshape(change.shape)
        own, moved = _pushed(lambda x: inner.momenta(z, x), (at,), (change,))
        return own + moved

    def whole(self, w: Float[Tensor, "*draws weights"]) -> Float[Tensor, "*draws all"]:
        """All weights of the basis, those that do not vary as they are."""
        return self.nominal + self.change(w)


class TangentMap(WeightedMap):
    """``z -> K grad H(z; w)`` of a :class:`TangentBasis`, draws on a leading axis."""

    def __init__(
        self,
        basis: TangentBasis,
        change: Float[Tensor, "*draws all"],
        matrix: Float[Tensor, "*own dim dim"] | None,
    ) -> None:
        super().__init__(change, matrix)
        self.basis = basis
        self.at = basis.nominal.repeat(*change.shape[:-1], 1).reshape(change.shape)

    def slope(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The slope at ``w_0`` and its derivative along the change."""
        inner = self.basis.basis
        if isinstance(inner, NetworkBasis):
            return network_slope(inner, self.basis.nominal, self.weights, z)
        own, moved = _pushed(lambda w: inner.gradient_map(w)(z), (self.at,), (self.weights,))
        return own + moved

    def like(self, weights: Tensor, matrix: Tensor | None) -> TangentMap:
        """The same for another change and another matrix."""
        return TangentMap(self.basis, weights, matrix)


def _differentiated(
    basis: NetworkBasis, nominal: Tensor, change: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """Slope and Hessian of a perceptron's tangent by one reverse pass a coordinate."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_(True)
        slope = network_slope(basis, nominal.detach(), change.detach(), leaf)
        rows = [
            torch.autograd.grad(own.sum(), leaf, retain_graph=True)[0] for own in slope.unbind(-1)
        ]
    return slope.detach(), torch.stack(rows, -2)


def _pushed(function: Any, at: tuple[Tensor], along: tuple[Tensor]) -> Any:
    """Value and derivative along a change."""
    return torch.func.jvp(function, at, along)


def network_slope(
    basis: NetworkBasis,
    nominal: Float[Tensor, " all"],
    change: Float[Tensor, "*draws all"],
    z: Float[Tensor, "*batch dim"],
) -> Float[Tensor, "*batch dim"]:
    """``grad H + (d grad H / dw) c`` of a perceptron: tangents beside both passes.

    The weights of all draws are the same, so that their products are one for all states.
    """
    layers, moved = (Layers.unpacked(w, basis.widths) for w in (nominal, change))
    activation = ACTIVATIONS[basis.activation]
    a, tangent = basis.embedded(z), None
    first, second = [], []
    for level, matrix in enumerate(layers.matrices):
        along = moved.ahead(level, a)
        if tangent is not None:
            along = along + tangent @ matrix.mT
        a, d, e = activation.triple(layers.ahead(level, a))
        tangent = d * along
        first.append(d)
        second.append(e * along)
    pull = layers.row() * first[-1]
    bent = moved.row() * first[-1] + layers.row() * second[-1]
    for level in range(len(first) - 1, 0, -1):
        matrix = layers.matrices[level]
        onward, turned = pull @ matrix, bent @ matrix + times(pull, moved.matrices[level])
        pull = onward * first[level - 1]
        bent = turned * first[level - 1] + onward * second[level - 1]
    slope = (pull + bent) @ layers.matrices[0] + times(pull, moved.matrices[0])
    return basis.to_states(slope, z)
