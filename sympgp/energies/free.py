"""Vector fields without any structure, as neural ordinary differential equations have them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Hyperparameters, LogNormal
from sympgp.energies.network import NetworkEnergy
from sympgp.energies.network_basis import NetworkBasis
from sympgp.energies.network_passes import ACTIVATIONS, Layers
from sympgp.energies.slope import SlopeBasis, SlopeEnergy, covector
from sympgp.energies.trainable import TrainableBasis
from sympgp.phase_space import CanonicalScaling


@dataclass(eq=False)
class FreeBasis(SlopeBasis, TrainableBasis):
    """``f(z; w) = V a_L(z) + c``: a multilayer perceptron with D outputs, given as ``g = J' f``.

    Weights are those of the layers, as :class:`NetworkBasis` has them without its last, then ``V``
    row by row and ``c``.

    Attributes:
        network: the layers; one row of ``V`` has the prior variances of its last.
    """

    network: NetworkBasis

    lossless = False

    def __post_init__(self) -> None:
        wide, dim = self.network.hidden[-1], self.network.dim
        variance = self.network.prior_variance
        row = variance[-wide:]
        # An output's constant is as large as all its weights together.
        self.prior_variance = torch.cat([variance[:-wide], row.repeat(dim), row.sum().expand(dim)])
        self.num_weights = len(self.prior_variance)
        self.last_layer = slice(len(variance) - wide, self.num_weights)

    @property
    def angles(self) -> dict[int, float]:
        """The coordinates that are angles, and their periods in user units."""
        return self.network.angles

    def slope(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dim"]:
        """``J' f``."""
        return self.bound(w)(z)

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """``z -> J' f(z; w)`` with the weights unpacked once."""
        network, dim = self.network, self.network.dim
        layers = Layers.unpacked(w[..., : self.last_layer.start], network.widths)
        activation = ACTIVATIONS[network.activation]
        outputs = w[..., self.last_layer.start : -dim].unflatten(-1, (dim, -1))
        constant = w[..., -dim:] if w.dim() == 1 else w[..., None, -dim:]

        def field(z: Tensor) -> Tensor:
            a = network.embedded(z)
            for level in range(len(network.hidden)):
                a = activation.value(layers.ahead(level, a))
            return covector(a @ outputs.mT + constant)

        return field

    def initial(self, num: int, generator: torch.Generator) -> Float[Tensor, "num weights"]:
        """``N(0, 1 / fan-in)`` for all weights, zero for the constants of the outputs."""
        network, dim = self.network, self.network.dim
        wide = network.hidden[-1]
        white = torch.randn(num, dim * wide, generator=generator, dtype=torch.float64)
        outputs = white.to(self.prior_variance) / wide**0.5
        inner = network.initial(num, generator)[:, :-wide]
        return torch.cat([inner, outputs, outputs.new_zeros(num, dim)], 1)

    def dropout(
        self, rate: float, num: int, generator: torch.Generator
    ) -> Float[Tensor, "num weights"]:
        """Factors zero for what leaves a dropped unit, see :class:`TrainableBasis`."""
        wide, dim = self.network.hidden[-1], self.network.dim
        factors = self.network.dropout(rate, num, generator)
        kept = factors[:, -wide:].repeat(1, dim)
        return torch.cat([factors[:, :-wide], kept, factors.new_ones(num, dim)], 1)


class FreeEnergy(SlopeEnergy):
    """``dx/dt = f(x; w)``, a multilayer perceptron: a prior over fields with no energy at all.

    The vector field of a neural ordinary differential equation (Chen, Rubanova, Bettencourt and
    Duvenaud, NeurIPS 2018). It stands where an energy stands, for comparison with those; nothing
    is conserved or dissipated, and H is not defined: what asks for it is refused with a TypeError.

    Weights into a unit are ``N(0, weight_scale^2 / fan_in)``, those of the outputs
    ``N(0, signal_scale^2 / fan_in)``, in units in which states and rates are of order one.

    No dissipation can stand beside it; added to an energy it is what this leaves unexplained, see
    :class:`~sympgp.energies.SumEnergy`.

    Args:
        num_dof: degrees of freedom n; the network has 2n inputs and outputs.
        hidden: widths of the hidden layers.
        activation: "tanh", "softplus", "silu" or "sin".
        periodic: indices of the coordinates that are angles: f is exactly periodic in them.
        period: their period in user units, one number or one a periodic coordinate.

    Raises:
        ValueError: as :class:`~sympgp.energies.NetworkEnergy` says.

    Example:
        >>> energy = FreeEnergy(num_dof=1, hidden=(16,))
        >>> priors = energy.hyperpriors(torch.ones(2, dtype=torch.float64))
        >>> basis = energy.basis({name: prior.median for name, prior in priors.items()})
        >>> basis.num_weights, basis.has_energy
        (82, False)
    """

    dissipates = True

    def __init__(
        self,
        num_dof: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        *,
        periodic: Sequence[int] = (),
        period: float | int | Sequence[float | int] = 2.0 * math.pi,
    ) -> None:
        self.network = NetworkEnergy(num_dof, hidden, activation, periodic=periodic, period=period)
        self.num_dof = num_dof

    @property
    def angles(self) -> dict[int, float]:
        """Periodic coordinates and their periods in user units."""
        return self.network.angles

    def in_units(self, scaling: CanonicalScaling) -> FreeEnergy:
        """The same with its periods in scaled units."""
        scaled = copy.copy(self)
        scaled.network = self.network.in_units(scaling)
        return scaled

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Scales of the hidden layers' weights and of f."""
        return self.network.hyperpriors(spread)

    def basis(self, hyperparameters: Hyperparameters) -> FreeBasis:
        """The network with the prior variances of these scales."""
        return FreeBasis(self.network.basis(hyperparameters))

    def redraw(self, seed: int) -> FreeEnergy:
        """The same: nothing is drawn before training."""
        return self
